package capture

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/segment"
	"rebound/internal/spool"
)

// withSpool gives the rig's capture a spool, as its gateway would.
func (r *rig) withSpool(limits spool.Limits) *spool.Spool {
	r.t.Helper()
	socket := filepath.Join(r.dir, "spool.sock")
	inlet, err := r.config.Identity.ServerTLS(identity.RoleGateway)
	if err != nil {
		r.t.Fatal(err)
	}
	sp, err := spool.Open(context.Background(), spool.Config{
		Group: r.config.Group, Gateway: r.config.Gateway, Dir: filepath.Join(r.dir, "spool"), Socket: socket,
		TLS: inlet, Limits: limits,
		Dial: func(to spool.Target) (link.DialConfig, error) {
			conf, err := r.config.Identity.ClientTLS(identity.RoleGateway, string(to.Standby))
			return link.DialConfig{
				Address: to.StandbyAddr, TLS: conf,
				Hello: link.Hello{Group: r.config.Group, Generation: to.Generation, Disks: to.Disks, Gateway: r.config.Gateway},
			}, err
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(sp.Close)
	sp.SetTarget(spool.Target{Generation: r.config.Generation, Disks: r.config.Disks, Standby: r.config.Standby, StandbyAddr: r.config.StandbyAddr})
	r.config.Spool = socket
	if err := r.client.Configure(r.ctx(), r.config); err != nil {
		r.t.Fatal(err)
	}
	return sp
}

// backDirect takes the stream out of the spool, as the gateway does.
func (r *rig) backDirect(sp *spool.Spool) {
	r.t.Helper()
	if _, err := r.client.LeaveSpool(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
	if err := sp.Finish(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
	if err := r.client.GoDirect(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
	r.await("direct stream", func(s Status) bool { return s.Route == RouteDirect && s.Link.Connected })
}

// writes are those among the entries, in order.
func writes(entries []storedEntry) []storedEntry {
	var out []storedEntry
	for _, e := range entries {
		if e.Kind == segment.KindWrite {
			out = append(out, e)
		}
	}
	return out
}

// TestOutageGoesIntoTheSpool: an outage that is much longer than the ring holds
// breaks nothing. The epoch goes on, every write arrives once and in order, and
// the stream goes direct again.
func TestOutageGoesIntoTheSpool(t *testing.T) {
	r := newRig(t, 2, Limits{RingBytes: 2 << 20, MaxTotalDelay: 500 * time.Millisecond})
	sp := r.withSpool(spool.Limits{})
	disks := r.disks()
	r.open()
	n := 0
	write := func(count int) {
		t.Helper()
		for range count {
			if err := disks[n%2].WriteAt(bg(), pattern(n, 16384), 16384*int64(n%64)); err != nil {
				t.Fatalf("write %d: %v", n, err)
			}
			n++
		}
	}
	for range 2 { // twice, for the way back must lead to the same place
		write(20)
		r.proxy.setDown(true)
		r.await("way into the spool", func(s Status) bool { return s.Route == RouteSpool })
		write(1000) // 16 MiB
		if st := r.status(); st.State != StateOpen {
			t.Fatalf("the stream is %s: %s", st.State, st.Reason)
		}
		r.proxy.setDown(false)
		write(50)
		r.backDirect(sp)
		write(20)
	}
	if _, err := r.client.Drain(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.standby.mu.Lock()
	got := writes(r.standby.entries)
	r.standby.mu.Unlock()
	if len(got) != n {
		t.Fatalf("%d writes arrived, want %d", len(got), n)
	}
	for i, e := range got {
		if string(e.data) != string(pattern(i, 16384)) {
			t.Fatalf("write %d is not what was written", i)
		}
	}
	if st := r.status(); st.Opened.Epoch != 1 || st.State != StateOpen {
		t.Errorf("epoch %d is %s: %s", st.Opened.Epoch, st.State, st.Reason)
	}
}

// TestSlowStandbyGoesIntoTheSpool: a standby that makes nothing durable fills
// the ring though its link stands.
func TestSlowStandbyGoesIntoTheSpool(t *testing.T) {
	r := newRig(t, 1, Limits{RingBytes: 2 << 20, MaxTotalDelay: 5 * time.Second})
	sp := r.withSpool(spool.Limits{})
	c := r.disk(0)
	r.open()
	r.standby.set(func(s *standby) { s.lazy = true })
	n := 0
	for ; r.status().Route != RouteSpool; n++ {
		if err := c.WriteAt(bg(), pattern(n, 16384), 16384*int64(n%64)); err != nil {
			t.Fatal(err)
		}
		if n > 5000 {
			t.Fatal("the ring took 80 MiB")
		}
	}
	r.standby.set(func(s *standby) { s.lazy = false })
	r.proxy.cut() // what was not durable comes again
	if _, err := r.client.Drain(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.backDirect(sp)
	r.standby.mu.Lock()
	defer r.standby.mu.Unlock()
	if got := len(writes(r.standby.entries)); got != n {
		t.Errorf("%d writes arrived, want %d", got, n)
	}
}

// TestFullSpoolSheds: over the spool's limit the stream breaks as without one,
// and what is in the spool arrives.
func TestFullSpoolSheds(t *testing.T) {
	r := newRig(t, 1, Limits{RingBytes: 2 << 20, MaxTotalDelay: 200 * time.Millisecond})
	sp := r.withSpool(spool.Limits{Bytes: 4 << 20, FileBytes: 1 << 20})
	c := r.disk(0)
	r.open()
	r.proxy.setDown(true)
	n := 0
	for ; r.status().State == StateOpen; n++ {
		if err := c.WriteAt(bg(), pattern(n, 16384), 16384*int64(n%64)); err != nil {
			t.Fatal(err)
		}
		if n > 5000 {
			t.Fatal("ring and spool took 80 MiB")
		}
	}
	if st := sp.State(); st.Bytes > 4<<20 || st.Durable == 0 {
		t.Errorf("the spool is at %+v", st)
	}
	r.proxy.setDown(false)
	if err := sp.Finish(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if o := r.open(); o.Epoch != 2 {
		t.Errorf("epoch %d, want 2", o.Epoch)
	}
}

// TestSpoolAway: with no spool behind the socket the stream waits for the
// standby, as without one.
func TestSpoolAway(t *testing.T) {
	r := newRig(t, 1, Limits{})
	r.withSpool(spool.Limits{}).Close()
	c := r.disk(0)
	r.open()
	r.proxy.setDown(true)
	r.await("way into the spool", func(s Status) bool { return s.Route == RouteSpool })
	if err := c.WriteAt(bg(), pattern(1, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.LeaveSpool(short(t)); err == nil {
		t.Error("left a spool that is not there")
	}
	r.proxy.setDown(false)
	r.await("direct stream", func(s Status) bool { return s.Route == RouteDirect && s.Link.Connected })
	if _, err := r.client.Drain(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.LeaveSpool(r.ctx()); !problem.HasCode(err, problem.OperationNotAllowed) {
		t.Errorf("leave spool while direct: %v", err)
	}
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
