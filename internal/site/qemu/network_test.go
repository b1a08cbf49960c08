package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// needRoot skips where namespaces and TAPs cannot be made.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_SYS_ADMIN")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
}

// frame is a broadcast Ethernet frame of a local experimental type.
func frame(payload string) []byte {
	f := bytes.Repeat([]byte{0xff}, 6)
	f = append(f, 2, 0, 0, 0, 0, 1)
	f = binary.BigEndian.AppendUint16(f, 0x88b5)
	f = append(f, payload...)
	return append(f, make([]byte, 60-len(f))...)
}

// vnetHeader is the length of virtio_net_hdr, which TAPs put before a frame.
const vnetHeader = 10

func sendFrame(t *testing.T, tap *os.File, payload string) {
	t.Helper()
	_, err := unix.Write(int(tap.Fd()), append(make([]byte, vnetHeader), frame(payload)...))
	must(t, err)
}

// receive returns the frames that arrive on a TAP until one carries last.
func receive(t *testing.T, tap *os.File, last string) [][]byte {
	t.Helper()
	var frames [][]byte
	for {
		fds := []unix.PollFd{{Fd: int32(tap.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 5000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("no frame %q came (%v); others: %x", last, err, frames)
		}
		buf := make([]byte, 2048)
		n, err = unix.Read(int(tap.Fd()), buf)
		must(t, err)
		frames = append(frames, buf[vnetHeader:n])
		if bytes.Contains(buf[:n], []byte(last)) {
			return frames
		}
	}
}

// Two cards on one test network reach each other; nobody else is there, and
// nothing is left when they go.
func TestTestNetworkIsIsolated(t *testing.T) {
	needRoot(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	before := hostLinks(t)
	ns, err := newTestNamespace(ctx)
	must(t, err)
	a, err := d.testTap(ctx, ns, "a-test", 0)
	must(t, err)
	b, err := d.testTap(ctx, ns, "b-test", 0)
	must(t, err)
	if got := hostLinks(t); len(got) != len(before) {
		t.Fatalf("the host sees %v, saw %v before", got, before)
	}
	must(t, onOwnThread(ctx, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return checkIsolated(t)
	}))
	sendFrame(t, a, "from a to b")
	heard := receive(t, b, "from a to b")
	sendFrame(t, b, "from b to a")
	heard = append(heard, receive(t, a, "from b to a")...)
	for _, f := range heard {
		if binary.BigEndian.Uint16(f[12:]) != 0x88b5 {
			t.Errorf("somebody else is on the network: %x", f)
		}
	}
	for _, f := range []*os.File{a, b, ns} {
		must(t, f.Close())
	}
	if got := hostLinks(t); len(got) != len(before) {
		t.Fatalf("the host sees %v, saw %v before", got, before)
	}
}

func hostLinks(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

// checkIsolated looks at a test network from inside.
func checkIsolated(t *testing.T) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		if len(addrs) > 0 {
			t.Errorf("%s has the addresses %v", l.Attrs().Name, addrs)
		}
		if kind := l.Type(); kind == "veth" || kind == "macvlan" || kind == "vlan" {
			t.Errorf("%s leads out", l.Attrs().Name)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	if len(routes) > 0 {
		t.Errorf("there are routes: %v", routes)
	}
	return nil
}

// Two members of a test failover share one network, another network is not
// theirs, and the last one takes it along, however it ends.
func TestMembersShareTestNetwork(t *testing.T) {
	needQEMU(t)
	needRoot(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	view := newViewServer(t, guestDisk(t, 8<<20))
	start := func(name dr.MachineName, network string) *machine {
		t.Helper()
		spec := site.RecoveredSpec{
			Definition: tiny(name, 1), Test: true, Network: network,
			Disks: []site.ViewDisk{{Disk: "disk0", Socket: view.sock, Export: "view"}},
		}
		got, err := d.StartRecovered(ctx, spec)
		must(t, err)
		if got != name+"-test" {
			t.Fatalf("got name %s", got)
		}
		return d.at(got)
	}
	inode := func(m *machine) uint64 {
		t.Helper()
		f := m.namespace()
		if f == nil {
			t.Fatalf("machine %s has no namespace", m.name)
		}
		defer f.Close()
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		return st.Ino
	}
	a, b, c := start("a", "drill"), start("b", "drill"), start("c", "other")
	if inode(a) != inode(b) {
		t.Error("members of one test network are apart")
	}
	if inode(a) == inode(c) {
		t.Error("test networks are joined")
	}
	networks, err := d.Networks(ctx)
	must(t, err)
	if len(networks) != 3 || networks[1] != (site.Network{Name: "drill", Kind: BridgeNetwork, Test: true}) {
		t.Errorf("networks: %+v", networks)
	}
	line, err := os.ReadFile(a.path("command"))
	must(t, err)
	if bytes.Contains(line, []byte("52:54:00:12:34:56")) || !bytes.Contains(line, []byte(testMAC("52:54:00:12:34:56"))) {
		t.Errorf("the test runs with the production MAC: %s", line)
	}
	// The first member goes and comes back; the network is the same.
	was := inode(b)
	must(t, d.DiscardRecovered(ctx, "a-test"))
	if got := inode(start("a", "drill")); got != was {
		t.Error("the network did not outlive its first member")
	}
	for _, name := range []dr.MachineName{"a-test", "b-test", "c-test"} {
		must(t, d.DiscardRecovered(ctx, name))
		if _, err := os.Stat(d.MachineDir(name)); !os.IsNotExist(err) {
			t.Errorf("folder of %s: %v", name, err)
		}
	}
	if networks, err = d.Networks(ctx); err != nil || len(networks) != 1 {
		t.Errorf("networks: %+v, %v", networks, err)
	}
}

func TestTestMAC(t *testing.T) {
	for _, mac := range []string{"52:54:00:12:34:56", "52:54:00:12:34:57", "02:00:00:00:00:01"} {
		a := testMAC(mac)
		if a != testMAC(mac) || a == mac || len(a) != 17 {
			t.Errorf("testMAC(%s) = %s", mac, a)
		}
		def := tiny("web", 1)
		def.NICs[0].MAC = a
		must(t, validate(def)) // unicast
	}
	if testMAC("52:54:00:ab:cd:ef") != testMAC("52:54:00:AB:CD:EF") {
		t.Error("the case of letters matters")
	}
	if testMAC("52:54:00:12:34:56") == testMAC("52:54:00:12:34:57") {
		t.Error("two cards get one address")
	}
}

// A machine on a bridge of the host has its TAP there while it runs.
func TestBridgeNetwork(t *testing.T) {
	needQEMU(t)
	needRoot(t)
	const bridge = "rbtestbr0"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}))
	br, err := netlink.LinkByName(bridge)
	must(t, err)
	t.Cleanup(func() { must(t, netlink.LinkDel(br)) })
	dir, ctx := t.TempDir(), testContext(t)
	must(t, os.WriteFile(filepath.Join(dir, "networks.json"), []byte(`[{"name":"default","kind":"bridge","bridge":"`+bridge+`"},{"name":"gone","kind":"bridge","bridge":"rbnosuch0"}]`), 0o600))
	d := openDriver(t, dir)
	must(t, d.Create(ctx, tiny("web", 1)))
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	tap, err := netlink.LinkByName(d.tapName("web", 0))
	must(t, err)
	if tap.Attrs().MasterIndex != br.Attrs().Index || tap.Attrs().OperState == netlink.OperDown {
		t.Errorf("the TAP is not on the bridge: %+v", tap.Attrs())
	}
	addrs, err := netlink.AddrList(tap, netlink.FAMILY_ALL)
	must(t, err)
	if len(addrs) > 0 {
		t.Errorf("the host has addresses on the TAP: %v", addrs)
	}
	must(t, d.at("web").killMachine(ctx))
	awaitGone(ctx, t, d.tapName("web", 0))
	def := tiny("web2", 1)
	def.NICs[0].Network = "gone"
	must(t, d.Create(ctx, def))
	wantCode(t, d.Start(ctx, "web2", site.StartOptions{}), problem.UnknownNetwork)
	def = tiny("web3", 1)
	def.NICs[0].Network = "unheard-of"
	must(t, d.Create(ctx, def))
	wantCode(t, d.Start(ctx, "web3", site.StartOptions{}), problem.UnknownNetwork)
}

// awaitGone waits until the kernel has taken an interface away, which it does
// after the process that held it is gone.
func awaitGone(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	for {
		_, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("interface %s stays", name)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
