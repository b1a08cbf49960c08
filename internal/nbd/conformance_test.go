package nbd

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"rebound/internal/block"
	"rebound/internal/block/blocktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plain hides the optional abilities of a device.
type plain struct{ block.Device }

// TestConformance runs the device suite through client and server.
func TestConformance(t *testing.T) {
	serverTLS, clientTLS := certificates(t)
	memory := func(*testing.T) block.Device { return block.NewMemory(blocktest.Size) }
	for _, c := range []struct {
		name    string
		network string
		server  ServerOptions
		export  Export
		client  Options
		dev     blocktest.New
	}{
		{name: "unix", network: "unix"},
		{name: "unix blocking", network: "unix", export: Export{BlockingIO: true}},
		{name: "tcp", network: "tcp"},
		{name: "tcp blocking", network: "tcp", export: Export{BlockingIO: true}},
		{
			name: "tls", network: "tcp", server: ServerOptions{TLS: serverTLS, TLSMode: TLSRequire},
			client: Options{TLS: clientTLS}, export: Export{BlockingIO: true},
		},
		{name: "simple replies", network: "unix", client: Options{NoStructuredReply: true}},
		{name: "export name", network: "unix", client: Options{NoGo: true}},
		{name: "minimum 4096", network: "unix", export: Export{BlockSize: BlockSizes{4096, 4096, 64 << 10}}},
		{name: "one request", network: "unix", export: Export{MaxRequests: 1, MaxBytes: 1}, client: Options{MaxRequests: 1}},
		{name: "small parts", network: "unix", client: Options{MaxChunk: 5000}},
		{name: "plain device", network: "unix", dev: func(*testing.T) block.Device {
			return plain{block.NewMemory(blocktest.Size)}
		}},
		{name: "file", network: "unix", dev: func(t *testing.T) block.Device {
			f, err := block.OpenFile(filepath.Join(t.TempDir(), "d"), block.FileOptions{CreateSize: blocktest.Size})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return f
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.dev == nil {
				c.dev = memory
			}
			blocktest.Run(t, func(t *testing.T) block.Device {
				e := c.export
				e.Name, e.Device = "disk", c.dev(t)
				_, addr := serve(t, c.network, c.server, e)
				o := c.client
				o.Export = "disk"
				return connect(t, c.network, addr, o)
			})
		})
	}
}
