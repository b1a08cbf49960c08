package capture

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// TestLinkDownSheds: with the link down the ring fills, writes are delayed, the
// stream is shed, guests go on; what was recorded arrives with its break once
// the link is back, and a new epoch can begin.
func TestLinkDownSheds(t *testing.T) {
	r := newRig(t, 2, Limits{RingBytes: 2 << 20, MaxTotalDelay: 200 * time.Millisecond})
	disks := r.disks()
	r.open()
	r.proxy.setDown(true)
	r.await("lost link", func(s Status) bool { return !s.Link.Connected })
	n := 0
	for sealed := false; !sealed; sealed = r.status().State == StateSealed {
		for range 16 {
			start := time.Now()
			if err := disks[n%2].WriteAt(bg(), pattern(n, 16384), 16384*int64(n%64)); err != nil {
				t.Fatalf("write %d: %v", n, err)
			}
			if d := time.Since(start); d > 500*time.Millisecond {
				t.Errorf("write %d took %v", n, d)
			}
			n++
		}
		if n > 10000 {
			t.Fatal("the ring took 160 MiB")
		}
	}
	if err := disks[0].WriteAt(bg(), pattern(n, 4096), 0); err != nil {
		t.Fatalf("write after the break: %v", err)
	}
	st := r.status()
	if st.Counters.RingBytes > 2<<20+1<<20 || st.Counters.Delayed == 0 || !strings.Contains(st.Reason, "full") {
		t.Errorf("ring %d bytes, delayed %v, reason %q", st.Counters.RingBytes, st.Counters.Delayed, st.Reason)
	}
	if st.Link.Error == nil || st.Link.Permanent {
		t.Errorf("link %+v, want a passing error", st.Link)
	}
	if _, err := r.client.Open(r.ctx()); !problem.HasCode(err, problem.GatewayUnreachable) {
		t.Errorf("open without a link: %v", err)
	}
	r.proxy.setDown(false)
	o := r.open()
	if o.Epoch != 2 {
		t.Errorf("epoch %d, want 2", o.Epoch)
	}
	if err := disks[1].WriteAt(bg(), pattern(n, 4096), 0); err != nil {
		t.Fatal(err)
	}
	at, err := r.client.Drain(r.ctx())
	if err != nil || at != (dr.Position{Generation: 1, Epoch: 2, Seq: 1}) {
		t.Errorf("drained at %v: %v", at, err)
	}
}

// TestSealedStreamIsDelivered: what was recorded before a break while the link
// was down arrives, break included, when the link is back.
func TestSealedStreamIsDelivered(t *testing.T) {
	r := newRig(t, 1, Limits{})
	c := r.disk(0)
	r.open()
	r.proxy.setDown(true)
	for i := range 10 {
		if err := c.WriteAt(bg(), pattern(i, 4096), int64(i)*4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.client.Seal(r.ctx(), "test"); err != nil {
		t.Fatal(err)
	}
	r.proxy.setDown(false)
	entries := r.standby.awaitBreak()
	if len(entries) != 11 || breakReason(t, entries) != "test" {
		t.Errorf("%d entries, want 10 writes and the break", len(entries))
	}
}

// TestStaleGenerationSeals: a standby that knows a newer generation ends the
// stream for good.
func TestStaleGenerationSeals(t *testing.T) {
	r := newRig(t, 1, Limits{})
	c := r.disk(0)
	r.open()
	r.standby.set(func(s *standby) { s.gen = 2 })
	r.proxy.cut()
	st := r.await("seal", func(s Status) bool { return s.State == StateSealed && s.Link.Permanent })
	if st.Link.Error == nil || st.Link.Error.Code != problem.StaleGeneration {
		t.Errorf("link %+v", st.Link)
	}
	if err := c.WriteAt(bg(), pattern(1, 4096), 0); err != nil {
		t.Errorf("write after the fence: %v", err)
	}
	if _, err := r.client.Open(r.ctx()); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("open with an old generation: %v", err)
	}
	found := map[EventKind]bool{}
	for !found[EventSealed] || !found[EventLink] {
		select {
		case e := <-r.client.Events():
			found[e.Kind] = true
		case <-time.After(5 * time.Second):
			t.Fatalf("events %v, want sealed and link", found)
		}
	}
}

// TestControlEntries: markers and definitions arrive in order with the writes
// around them.
func TestControlEntries(t *testing.T) {
	r := newRig(t, 1, Limits{})
	c := r.disk(0)
	if _, err := r.client.Marker(r.ctx(), "p", dr.Bookmark, ""); !problem.HasCode(err, problem.OperationNotAllowed) {
		t.Errorf("marker without an epoch: %v", err)
	}
	r.open()
	if err := c.WriteAt(bg(), pattern(1, 512), 0); err != nil {
		t.Fatal(err)
	}
	at, err := r.client.Define(r.ctx(), dr.Definition{Name: "vm0", CPUs: 2, NVRAM: make([]byte, 540<<10)})
	if err != nil || at.Seq != 2 {
		t.Fatalf("definition at %v: %v", at, err)
	}
	p, err := r.client.Marker(r.ctx(), "point-1", dr.Bookmark, "before the upgrade")
	if err != nil || p.Position.Seq != 3 || time.Since(p.Time).Abs() > time.Minute {
		t.Fatalf("marker %+v: %v", p, err)
	}
	if err := c.WriteAt(bg(), nil, 0); err != nil {
		t.Errorf("empty write: %v", err)
	}
	if err := c.ReadAt(bg(), make([]byte, 512), 0); err == nil {
		t.Error("a capture export was read")
	}
	entries := r.standby.awaitBreak() // a client that wrote and then reads is no mirror
	kinds := ""
	for _, e := range entries {
		kinds += e.Kind.String() + " "
	}
	if kinds != "write definition marker break " {
		t.Errorf("stream: %s", kinds)
	}
	var m segment.Marker
	if err := m.UnmarshalBinary(entries[2].data); err != nil || m.Name != "before the upgrade" || !m.Time.Equal(p.Time) {
		t.Errorf("marker %+v: %v", m, err)
	}
}

// TestProbingClientsAreNoMembers: a connection that never writes may come and
// go, as long as its disk has another one.
func TestProbingClientsAreNoMembers(t *testing.T) {
	r := newRig(t, 1, Limits{})
	if _, err := r.client.Open(r.ctx()); !problem.HasCode(err, problem.OperationNotAllowed) {
		t.Errorf("opened without a disk: %v", err)
	}
	r.disk(0)
	r.open()
	if err := r.disk(0).Close(); err != nil {
		t.Fatal(err)
	}
	r.await("one socket", func(s Status) bool { return s.Disks[0].Conns == 1 })
	if st := r.status(); st.State != StateOpen {
		t.Errorf("%s: %s", st.State, st.Reason)
	}
}

func TestBadConfigurations(t *testing.T) {
	r := newRig(t, 1, Limits{})
	good := r.config
	for name, change := range map[string]func(*GroupConfig){
		"group":       func(g *GroupConfig) { g.Group = "" },
		"generation":  func(g *GroupConfig) { g.Generation = 0 },
		"disks":       func(g *GroupConfig) { g.Disks = nil },
		"size":        func(g *GroupConfig) { g.Disks = []dr.GroupDisk{{SizeBytes: 1000}} },
		"standby":     func(g *GroupConfig) { g.Standby = "" },
		"compression": func(g *GroupConfig) { g.Compression = "zip" },
		"limits":      func(g *GroupConfig) { g.Limits.RingBytes = 1 },
	} {
		bad := good
		change(&bad)
		if err := r.client.Configure(r.ctx(), bad); !problem.HasCode(err, problem.InvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.client.call(r.ctx(), "dance", nil, nil); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("unknown method: %v", err)
	}
	if err := r.client.call(r.ctx(), methodConfirm, 5, nil); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("bad parameters: %v", err)
	}
	more := good
	more.Disks = append(more.Disks[:1:1], dr.GroupDisk{Machine: "vm1", Disk: "disk0", SizeBytes: 4096})
	if err := r.client.Configure(r.ctx(), more); err != nil {
		t.Errorf("another disk while idle: %v", err)
	}
	if n := len(r.status().Disks); n != 2 {
		t.Errorf("%d disks", n)
	}
}

// TestRefusalSealsFirst: when a client that has written gets an error reply,
// the break is in the stream already.
func TestRefusalSealsFirst(t *testing.T) {
	r := newRig(t, 2, Limits{})
	conn := rawClient(t, r)
	r.disk(1)
	r.open()
	reply := make([]byte, 16)
	for i, offset := range []uint64{0, testDiskSize} { // the second lies beyond the disk
		req := append(rawWrite(offset, 512), make([]byte, 512)...)
		if _, err := conn.Write(req); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, reply); err != nil {
			t.Fatal(err)
		}
		errno := binary.BigEndian.Uint32(reply[4:])
		if refused := errno != 0; refused != (i == 1) {
			t.Errorf("write at %d: error %d", offset, errno)
		}
	}
	if st := r.status(); st.State != StateSealed || !strings.Contains(st.Reason, "refused") {
		t.Errorf("%s: %q when the error reply was there", st.State, st.Reason)
	}
}
