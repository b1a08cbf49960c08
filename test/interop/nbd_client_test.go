package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/block"
	"rebound/internal/block/blocktest"
	"rebound/internal/nbd"
)

func dialNBD(t *testing.T, network, addr string, o nbd.Options) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(t.Context(), network, addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestClientWithNbdkit runs the device suite on nbdkit's memory, also with
// structured replies off and with a minimum block size.
func TestClientWithNbdkit(t *testing.T) {
	tool(t, "nbdkit")
	for name, args := range map[string][]string{
		"memory":             {"memory", "size=1060864"},
		"no structured":      {"--no-sr", "memory", "size=1060864"},
		"blocksize policy":   {"--filter=blocksize-policy", "memory", "size=1060864", "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=64K", "blocksize-error-policy=error"},
		"no zeroes, no trim": {"--filter=nozero", "memory", "size=1060864"},
	} {
		t.Run(name, func(t *testing.T) {
			blocktest.Run(t, func(t *testing.T) block.Device {
				s := filepath.Join(t.TempDir(), "s")
				startDaemon(t, s, "nbdkit", append([]string{"-f", "--exit-with-parent", "-U", s}, args...)...)
				c := dialNBD(t, "unix", s, nbd.Options{})
				if name == "blocksize policy" && c.Info().BlockSize != (nbd.BlockSizes{Min: 4096, Preferred: 4096, Max: 64 << 10}) {
					t.Errorf("block sizes %+v", c.Info().BlockSize)
				}
				return c
			})
		})
	}
}

func TestClientErrorsFromNbdkit(t *testing.T) {
	tool(t, "nbdkit")
	s := filepath.Join(t.TempDir(), "s")
	startDaemon(t, s, "nbdkit", "-f", "--exit-with-parent", "-U", s, "--filter=error", "memory", "size=1M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%")
	c := dialNBD(t, "unix", s, nbd.Options{})
	if err := c.WriteAt(t.Context(), []byte{1}, 0); !errors.Is(err, nbd.ENOSPC) {
		t.Errorf("write = %v, want ENOSPC", err)
	}
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); err != nil {
		t.Errorf("read after a failed write: %v", err)
	}
	if _, err := nbd.Dial(t.Context(), "unix", s, nbd.Options{TLS: &tls.Config{}}); !errors.Is(err, nbd.ErrTLSRequired) {
		t.Errorf("TLS where there is none: %v", err)
	}
}

// TestClientReadsDirtyBitmap: qemu-nbd serves a bitmap, we read it.
func TestClientReadsDirtyBitmap(t *testing.T) {
	tool(t, "qemu-img", "qemu-io", "qemu-nbd")
	dir := t.TempDir()
	disk, s := filepath.Join(dir, "d.qcow2"), filepath.Join(dir, "s")
	mustRun(t, "qemu-img", "create", "-f", "qcow2", disk, "16M")
	mustRun(t, "qemu-io", "-f", "qcow2", disk, "-c", "write -P 1 0 4M")
	mustRun(t, "qemu-img", "bitmap", "--add", "-g", "64k", "-f", "qcow2", disk, "b0")
	mustRun(t, "qemu-io", "-f", "qcow2", disk, "-c", "write -P 2 1M 100k", "-c", "write -P 3 8M 64k", "-c", "write -P 4 15M 1M")
	startDaemon(t, s, "qemu-nbd", "--persistent", "-r", "-k", s, "-f", "qcow2", "-B", "b0", "-x", "disk", "--shared=4", disk)
	bitmap := nbd.DirtyBitmapContext("b0")
	c := dialNBD(t, "unix", s, nbd.Options{Export: "disk", MetaContexts: []string{nbd.ContextAllocation, bitmap, nbd.DirtyBitmapContext("none")}})
	if got := c.Info().Contexts; len(got) != 2 {
		t.Fatalf("contexts %q", got)
	}
	dirty := map[int64]bool{}
	for off := int64(0); off < c.Size(); {
		runs, err := c.BlockStatus(t.Context(), bitmap, off, c.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range runs {
			for b := off / 65536; r.Flags&nbd.StatusDirty != 0 && b < (off+r.Length)/65536; b++ {
				dirty[b] = true
			}
			off += r.Length
		}
	}
	want := map[int64]bool{16: true, 17: true, 128: true}
	for b := int64(240); b < 256; b++ {
		want[b] = true
	}
	for b := range int64(256) {
		if dirty[b] != want[b] {
			t.Errorf("64 KiB block %d: dirty %v, want %v", b, dirty[b], want[b])
		}
	}
	es, err := c.Extents(t.Context(), 4<<20, 4<<20)
	if err != nil || len(es) != 1 || !es[0].Zero {
		t.Errorf("extents %+v, %v", es, err)
	}
	if err := c.WriteAt(t.Context(), []byte{1}, 0); !errors.Is(err, block.ErrReadOnly) {
		t.Errorf("write to a read-only export: %v", err)
	}
	if _, err := c.BlockStatus(t.Context(), nbd.DirtyBitmapContext("none"), 0, 512); !errors.Is(err, nbd.ErrNoContext) {
		t.Errorf("status of a context that the server lacks: %v", err)
	}
	p := make([]byte, 2)
	if err := c.ReadAt(t.Context(), p, 1<<20-1); err != nil || p[0] != 1 || p[1] != 2 {
		t.Errorf("read %v, %v", p, err)
	}
}

// TestClientWithQemuNbd runs the device suite on a raw file behind qemu-nbd.
func TestClientWithQemuNbd(t *testing.T) {
	tool(t, "qemu-nbd")
	blocktest.Run(t, func(t *testing.T) block.Device {
		dir := t.TempDir()
		disk, s := filepath.Join(dir, "d"), filepath.Join(dir, "s")
		if err := os.WriteFile(disk, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(disk, blocktest.Size); err != nil {
			t.Fatal(err)
		}
		startDaemon(t, s, "qemu-nbd", "--persistent", "-k", s, "-f", "raw", "--discard=unmap", "--shared=4", disk)
		return dialNBD(t, "unix", s, nbd.Options{})
	})
}

// pki writes certificates as QEMU and libnbd read them (ca-cert.pem,
// server-cert.pem, …) and returns their directory.
func pki(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, kind string, der []byte) {
		t.Helper()
		b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		switch name {
		case "ca":
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
			ca, caKey = c, key
		case "server":
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
		case "client":
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		put(name+"-cert.pem", "CERTIFICATE", der)
		put(name+"-key.pem", "PRIVATE KEY", keyDER)
	}
	return dir
}

// endConfig returns the TLS configuration of an end; both verify the other.
func endConfig(t *testing.T, dir, name string) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, name+"-cert.pem"), filepath.Join(dir, name+"-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("no certificate in ca-cert.pem")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: pool,
		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func TestServerOverTLS(t *testing.T) {
	tool(t, "qemu-img", "nbdcopy")
	dir := pki(t)
	d, want := sparse(t)
	back := block.NewMemory(size)
	addr := serveOn(t, "tcp", "127.0.0.1:0", nbd.ServerOptions{TLS: endConfig(t, dir, "server"), TLSMode: nbd.TLSRequire},
		nbd.Export{Name: "src", Device: d}, nbd.Export{Name: "dst", Device: back})
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	creds := []string{"--object", "tls-creds-x509,id=t,dir=" + dir + ",endpoint=client", "--image-opts"}
	img := func(export string) string {
		return "driver=nbd,host=127.0.0.1,port=" + port + ",export=" + export + ",tls-creds=t"
	}
	mustRun(t, "qemu-img", append(append([]string{"convert"}, creds...), "-n", "--target-image-opts", img("src"), "driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port="+port+",file.export=dst,file.tls-creds=t")...)
	if !bytes.Equal(blocktest.Content(t, back), want) {
		t.Error("content differs after qemu-img convert over TLS")
	}
	if err := back.WriteZeroes(t.Context(), 0, size); err != nil {
		t.Fatal(err)
	}
	nbds := func(export string) string {
		return "nbds://localhost:" + port + "/" + export + "?tls-certificates=" + dir
	}
	mustRun(t, "nbdcopy", "--flush", nbds("src"), nbds("dst"))
	if !bytes.Equal(blocktest.Content(t, back), want) {
		t.Error("content differs after nbdcopy over TLS")
	}
	if out, err := run(t, "nbdinfo", "nbd://127.0.0.1:"+port+"/src"); err == nil {
		t.Errorf("a client in the clear was served: %s", out)
	}
}

func TestClientOverTLS(t *testing.T) {
	tool(t, "nbdkit")
	dir := pki(t)
	s := filepath.Join(t.TempDir(), "s")
	startDaemon(t, s, "nbdkit", "-f", "--exit-with-parent", "-U", s, "--tls=require", "--tls-certificates="+dir, "--tls-verify-peer", "memory", "size=4M")
	cfg := endConfig(t, dir, "client")
	cfg.ServerName = "localhost"
	c := dialNBD(t, "unix", s, nbd.Options{TLS: cfg})
	want := blocktest.Fill(5, 4<<20)
	if err := c.WriteAt(t.Context(), want, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(blocktest.Content(t, c), want) {
		t.Error("content differs")
	}
	if _, err := nbd.Dial(t.Context(), "unix", s, nbd.Options{}); !errors.Is(err, nbd.ErrTLSRequired) {
		t.Errorf("in the clear: %v", err)
	}
}
