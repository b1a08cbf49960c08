package lab_test

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/agent/agenttest"
	"rebound/internal/dr"
	"rebound/internal/lab/checker"
	"rebound/internal/lab/collector"
	"rebound/internal/lab/image"
	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// build makes a small guest whose peer is another one.
func build(t *testing.T, b *image.Builder, fw dr.Firmware, name, peer, collectorAddr string) *image.Result {
	t.Helper()
	r, err := b.Build(t.Context(), image.Guest{
		Firmware: fw, Dir: filepath.Join(t.TempDir(), name), BallastMiB: 16, Seed: 1,
		Config: wire.GuestConfig{Name: name, Peer: peer, Collector: collectorAddr, RecordsPerSecond: 60},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// firstAck waits for a boot of the guest and its first record, and tells how
// long that took.
func firstAck(t *testing.T, c *collector.Collector, name string, started time.Time) collector.Session {
	t.Helper()
	s, err := c.WaitBoot(timeout(t), name, started)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.WaitNewRecord(timeout(t), s.Boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: first new record acknowledged %.2fs after the start; guest's uptime at its hello %.2fs",
		name, a.Wall.Sub(started).Seconds(), s.HelloUptime)
	return s
}

func waitAck(t *testing.T, c *collector.Collector, boot string, n uint64) collector.Ack {
	t.Helper()
	a, err := c.WaitAck(timeout(t), boot, n)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// atRest reads a ledger off the disks and demands that nothing acknowledged is
// missing.
func atRest(t *testing.T, c *collector.Collector, r *image.Result, disks ...string) *ledger.Ledger {
	t.Helper()
	if disks == nil {
		disks = r.Disks
	}
	l, err := checker.ReadDisks(t.Context(), disks...)
	if err != nil {
		t.Fatal(err)
	}
	v := checker.Planned(l, c.Acks(string(r.Definition.Name)), time.Now())
	if !v.OK || v.Lost != 0 || v.Acked == 0 {
		t.Errorf("%s after the end: %+v", r.Definition.Name, v)
	}
	return l
}

// TestPowerCut cuts the power of two connected guests while they write, reads
// their ledgers off the disks, starts them again and turns one off in order.
func TestPowerCut(t *testing.T) {
	short(t)
	b, c := builder(t), startCollector(t)
	v := agenttest.New(t)
	_, port, err := net.SplitHostPort(v.Addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetAgent("alpha", wire.AgentConfig{Vault: "https://10.0.2.2:" + port, Machine: "alpha", Passphrase: "once", CA: string(v.CA.PEM())})
	alpha := build(t, b, dr.BIOS, "alpha", "", c.GuestAddr())
	beta := build(t, b, dr.UEFI, "beta", "alpha", c.GuestAddr())
	mb := startMachine(t, beta, "user")
	ma := startMachine(t, alpha, "user")
	sa := firstAck(t, c, "alpha", ma.started)
	sb := firstAck(t, c, "beta", mb.started)
	waitAck(t, c, sa.Boot, 100)
	cutFrom := waitAck(t, c, sb.Boot, 100)
	if cutFrom.Names.N == 0 {
		t.Error("the second guest's records name none of the first's")
	}
	reach, err := c.WaitReach(timeout(t), sa.Boot)
	if err != nil {
		t.Fatal(err)
	}
	if ok, _ := reach.Isolated(); ok {
		t.Errorf("a guest that talks to the host claims to be isolated: %+v", reach)
	}
	registered := func(n int, boot string) {
		v.Until("registration", func(s agenttest.State) bool { return len(s.Registered) == n && s.Registered[n-1].BootID == boot })
	}
	registered(1, sa.Boot)
	mb.kill()
	ma.kill()

	la, lb := atRest(t, c, alpha), atRest(t, c, beta)
	if n := checker.OrderViolations(la, lb); n != 0 {
		t.Errorf("%d records of beta name records that alpha lacks", n)
	}
	m := checker.AtMoment(la, c.Acks("alpha"), time.Now())
	if !m.OK {
		t.Errorf("the newest record is not where it can be: %+v", m)
	}

	ma = startMachine(t, alpha, "user")
	s2 := firstAck(t, c, "alpha", ma.started)
	if s2.Boot == sa.Boot || s2.State != la.State {
		t.Errorf("second boot found %+v, the disks held %+v", s2.State, la.State)
	}
	if _, err := c.WaitLedger(timeout(t), s2.Boot); err != nil {
		t.Fatal(err)
	}
	if up, ok := c.Ledger(s2.Boot); !ok || up.State != la.State {
		t.Errorf("uploaded ledger %+v, the disks held %+v", up.State, la.State)
	}
	waitAck(t, c, s2.Boot, la.State.Count+50)
	registered(2, s2.Boot)
	ma.pressPower()
	if !ma.sawEvent("stopped") {
		t.Error("the guest did not stop in order")
	}
	final := atRest(t, c, alpha, nbdExport(t, alpha.Disks[1]), alpha.Disks[0])
	if s, _ := c.Session(s2.Boot); !s.Stopping || s.Newest != final.State.Newest {
		t.Errorf("the last report was %+v (stopping %v), the disks hold %+v", s.Newest, s.Stopping, final.State.Newest)
	}
}

// nbdExport serves an image by nbdkit on a Unix socket.
func nbdExport(t *testing.T, path string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command("nbdkit", "--foreground", "--readonly", "--unix", socket, "file", path)
	if err := cmd.Start(); err != nil {
		t.Fatalf("start nbdkit: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
			return "nbd+unix:///?socket=" + socket
		}
		if time.Now().After(deadline) {
			t.Fatalf("nbdkit does not listen: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestIsolatedPair starts two guests on a network of their own: they see each
// other and nothing else.
func TestIsolatedPair(t *testing.T) {
	short(t)
	b, c := builder(t), startCollector(t)
	alpha := build(t, b, dr.BIOS, "alpha", "", c.GuestAddr())
	beta := build(t, b, dr.BIOS, "beta", "alpha", c.GuestAddr())
	dir := t.TempDir()
	wires := [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	netdev := "dgram,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s"
	ma := startMachine(t, alpha, fmt.Sprintf(netdev, wires[0], wires[1]))
	mb := startMachine(t, beta, fmt.Sprintf(netdev, wires[1], wires[0]))
	for _, m := range []struct {
		*machine
		peer string
	}{{ma, "beta"}, {mb, "alpha"}} {
		e := m.await("isolation", func(e wire.Event) bool {
			if e.Event != "reach" {
				return false
			}
			ok, _ := e.Reach.Isolated(m.peer)
			return ok
		})
		if len(e.Reach.Hosts) == 0 || len(e.Reach.NICs) != 1 || e.Reach.NICs[0].DHCP {
			t.Errorf("what %s tried is not enough: %+v", e.Guest, e.Reach)
		}
	}
	if s := c.Sessions(); len(s) != 0 {
		t.Errorf("isolated guests reached the collector: %+v", s)
	}
	// They go on writing, and the second names what the first itself says.
	first := mb.await("progress", func(e wire.Event) bool { return e.Event == "progress" && e.Newest.N > 20 })
	t.Logf("isolated beta wrote %d records by uptime %.1fs", first.Newest.N, first.Uptime)
	mb.pressPower()
	ma.pressPower()
	la, err := checker.ReadDisks(t.Context(), alpha.Disks...)
	if err != nil {
		t.Fatal(err)
	}
	lb, err := checker.ReadDisks(t.Context(), beta.Disks...)
	if err != nil {
		t.Fatal(err)
	}
	if !la.State.Sound() || !lb.State.Sound() || la.State.Count == 0 {
		t.Errorf("ledgers: %+v, %+v", la.State, lb.State)
	}
	if last := lb.Records[len(lb.Records)-1]; last.Peer.N == 0 {
		t.Error("beta's last record names none of alpha's")
	}
	if n := checker.OrderViolations(la, lb); n != 0 {
		t.Errorf("%d records of beta name records that alpha lacks", n)
	}
}

// TestAddressReachesTheGuest: a real guest finds the address of its target
// settings in what its hypervisor says, and its agent sets it, in place of what
// DHCP would have given.
func TestAddressReachesTheGuest(t *testing.T) {
	short(t)
	b, c := builder(t), startCollector(t)
	r := build(t, b, dr.BIOS, "alpha", "", c.GuestAddr())
	r.Definition.NICs[0].Address = &dr.Address{IPs: []string{"192.0.2.77/24"}, Gateways: []string{"192.0.2.2"}}
	m := startMachine(t, r, "user,restrict=on,net=192.0.2.0/24")
	e := m.await("the card", func(e wire.Event) bool { return e.Event == "reach" })
	if n := e.Reach.NICs; len(n) != 1 || n[0].Address != "192.0.2.77/24" || n[0].Gateway != "192.0.2.2" || n[0].DHCP {
		t.Errorf("the guest's card is %+v", n)
	}
	m.kill()
}
