package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/client"
)

// maxStall is how long a guest may wait for its disk because of Rebound; the
// rest is the machine's: a record every 25 ms, under emulation.
const maxStall, slowMachine = time.Second, 500 * time.Millisecond

// TestFaults breaks one thing after the other under a protected guest at work.
// The guest may stall for a second at most, sees no error, and all goes on by
// itself.
func TestFaults(t *testing.T) {
	r := newRig(t, options{guests: []string{"web"}, volume: "2g"})
	r.start()
	r.protect()
	r.noStall("nothing is broken", func() { r.pause(2 * time.Second) })

	for _, f := range []struct {
		name string
		do   func(*testing.T, *rig)
	}{
		{"capture stopped", captureStopped},
		{"capture killed", captureKilled},
		{"home gateway killed", homeGatewayKilled},
		{"standby frozen", standbyFrozen},
		{"standby killed", standbyKilled},
		{"vault killed", vaultKilled},
		{"standby full", standbyFull},
	} {
		at := time.Now()
		ok := t.Run(f.name, func(t *testing.T) {
			outer := r.t
			r.t = t
			defer func() { r.t = outer }()
			f.do(t, r)
			r.noGuestErrors(demo.HomeSite, "web")
			t.Logf("%s: %.1f s", f.name, time.Since(at).Seconds())
		})
		if !ok {
			return
		}
	}
	r.verify()
	at := time.Now()
	r.operatePlannedFailover()
	r.judge("planned failover after all faults", at, time.Now(), -1)
}

// noStall runs a fault and asserts that the guest went on all the time.
func (r *rig) noStall(what string, fault func()) {
	r.t.Helper()
	from := time.Now()
	fault()
	r.working()
	stall := r.longestStall(r.names[0], from, time.Now())
	r.t.Logf("%s: the guest's longest stall was %v", what, stall.Round(time.Millisecond))
	if stall > maxStall+slowMachine {
		r.t.Errorf("%s: the guest stalled for %v", what, stall)
	}
}

// recovers waits until the group is protected in an epoch, and returns what
// the present stream has sent.
func (r *rig) recovers(what string, maxSent int64) {
	r.t.Helper()
	g := r.untilState(lifecycle.Protected)
	r.t.Logf("%s: the stream is at %s, sent %d bytes of %d", what, g.RPO.Confirmed, g.Counters.SentBytes, r.diskBytes())
	if maxSent > 0 && g.Counters.SentBytes > maxSent {
		r.t.Errorf("%s: %d bytes were sent: it did not go by bitmap", what, g.Counters.SentBytes)
	}
	r.until("a small RPO", func() error {
		rpo, err := r.w.Client.GroupRPO(r.ctx, group)
		if err == nil && (rpo.Seconds == nil || rpo.Basis != "stream" || *rpo.Seconds > 2) {
			err = fmt.Errorf("it is %v of %s", rpo.Seconds, rpo.Basis)
		}
		return err
	})
}

// untilEpochAfter waits for a new epoch.
func (r *rig) untilEpochAfter(epoch uint64) {
	r.t.Helper()
	r.until("a new epoch", func() error {
		g, err := r.w.Client.Group(r.ctx, group)
		if err != nil {
			return err
		}
		if uint64(g.RPO.Confirmed.Epoch) <= epoch {
			return fmt.Errorf("it is at %s, %s: %s", g.RPO.Confirmed, g.State, g.Problem)
		}
		return nil
	})
}

// gatewaysConnected waits until the vault hears from every gateway: each dials
// a vault that has come back in its own time.
func (r *rig) gatewaysConnected() {
	r.t.Helper()
	r.until("all gateways connected", func() error {
		all, err := r.w.Client.Gateways(r.ctx)
		if err != nil {
			return err
		}
		for _, g := range all {
			if !g.Connected {
				return fmt.Errorf("%s is not", g.ID)
			}
		}
		return nil
	})
}

func (r *rig) epoch() uint64 { return uint64(r.group().RPO.Confirmed.Epoch) }

// epochSince tells whether the stream went on. It does, unless this machine is
// so busy that a capture is taken to hang; that it must is the gateway's tests'.
func (r *rig) epochSince(before uint64) {
	r.t.Helper()
	if now := r.epoch(); now != before {
		r.t.Logf("epoch %d, before %d: the stream broke", now, before)
	}
}

func (r *rig) oneCapture() int {
	r.t.Helper()
	pids := r.w.Captures(demo.HomeSite)
	if len(pids) != 1 {
		r.t.Fatalf("captures at home: %v, want one", pids)
	}
	return pids[0]
}

func captureStopped(t *testing.T, r *rig) {
	before, pid := r.epoch(), r.oneCapture()
	r.noStall("capture stopped with SIGSTOP", func() {
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		r.untilEpochAfter(before)
	})
	r.recovers("capture stopped", 32<<20)
	if r.oneCapture() == pid {
		t.Error("the stopped capture is still the one")
	}
}

func captureKilled(t *testing.T, r *rig) {
	before, pid := r.epoch(), r.oneCapture()
	r.noStall("capture killed with SIGKILL", func() {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		r.untilEpochAfter(before)
	})
	r.recovers("capture killed", 32<<20)
}

// homeGatewayKilled: the capture goes on alone and is adopted, so that nothing
// needs to be synchronised.
func homeGatewayKilled(t *testing.T, r *rig) {
	before, pid := r.group().RPO.Confirmed, r.oneCapture()
	r.noStall("home gateway killed with SIGKILL", func() {
		must(t, r.w.Kill(string(demo.HomeGW)))
		r.pause(2 * time.Second)
		must(t, r.w.Restart(r.ctx, string(demo.HomeGW)))
	})
	r.gatewaysConnected()
	r.recovers("home gateway killed", 0)
	r.until("confirmations after the restart", func() error {
		if now := r.group().RPO.Confirmed; !before.Before(now) {
			return fmt.Errorf("still %s", now)
		}
		return nil
	})
	now := r.group().RPO.Confirmed
	if now.Epoch != before.Epoch || r.oneCapture() != pid {
		t.Errorf("the stream went from %s to %s, capture %d to %d: it was not adopted", before, now, pid, r.oneCapture())
	}
}

// standbyFrozen is a link that is silent for a while.
func standbyFrozen(t *testing.T, r *rig) {
	before := r.epoch()
	pid := r.w.PID(string(demo.CloudGW))
	r.noStall("standby gateway stopped for 6 s", func() {
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		r.pause(6 * time.Second)
		must(t, syscall.Kill(pid, syscall.SIGCONT))
	})
	r.gatewaysConnected()
	r.recovers("standby frozen", 64<<20)
	r.epochSince(before)
}

func standbyKilled(t *testing.T, r *rig) {
	before := r.epoch()
	r.noStall("standby gateway killed with SIGKILL", func() {
		must(t, r.w.Kill(string(demo.CloudGW)))
		r.pause(2 * time.Second)
		must(t, r.w.Restart(r.ctx, string(demo.CloudGW)))
	})
	r.gatewaysConnected()
	r.recovers("standby killed", 64<<20)
	r.epochSince(before)
}

// vaultKilled: replication needs no vault.
func vaultKilled(t *testing.T, r *rig) {
	before := r.group().RPO.Confirmed
	r.noStall("vault killed with SIGKILL", func() {
		must(t, r.w.Kill(demo.VaultProcess))
		r.pause(2 * time.Second)
		must(t, r.w.Restart(r.ctx, demo.VaultProcess))
	})
	r.gatewaysConnected()
	r.recovers("vault killed", 0)
	if now := r.group().RPO.Confirmed; now.Epoch != before.Epoch {
		t.Errorf("the stream went from %s to %s", before, now)
	}
}

// standbyFull: the journal keeps its reserve, the source spools, old points
// stay, and it goes on by itself, without a hole in the history.
func standbyFull(t *testing.T, r *rig) {
	old, err := r.w.Client.Points(r.ctx, client.GroupTarget(group), client.PointFilter{})
	must(t, err)
	if len(old.Points) == 0 {
		t.Fatal("there are no points")
	}
	before := r.group().RPO.Confirmed
	var st unix.Statfs_t
	must(t, unix.Statfs(r.mounted, &st))
	used := (int64(st.Blocks) - int64(st.Bfree)) * st.Bsize
	r.w.Collector.SetRate("", 2000) // to fill the ring
	r.noStall("standby full", func() {
		r.sizeCloud(fmt.Sprint(used + 2<<20))
		r.event("JournalFull")
		r.event("SpoolBegan")
		r.pause(2 * time.Second)
	})
	now, err := r.w.Client.Points(r.ctx, client.GroupTarget(group), client.PointFilter{})
	must(t, err)
	for _, p := range old.Points {
		found := false
		for _, q := range now.Points {
			found = found || p.ID == q.ID
		}
		if !found {
			t.Errorf("point %s of %v is gone", p.ID, p.Time)
		}
	}
	r.w.Collector.SetRate("", workRate)
	r.noStall("standby has room again", func() {
		r.sizeCloud("2g")
		r.recovers("standby full", 0)
	})
	r.event("JournalHasRoom")
	r.event("SpoolEnded")
	r.epochSince(uint64(before.Epoch))
}

// event waits until an event of a code is listed.
func (r *rig) event(code string) {
	r.t.Helper()
	r.until("event "+code, func() error {
		events, err := r.w.Client.Events(r.ctx, 0, 1000)
		if err != nil {
			return err
		}
		var codes []string
		for _, e := range events {
			if e.Code == code {
				return nil
			}
			codes = append(codes, e.Code)
		}
		return errors.New("there are only " + strings.Join(codes, " "))
	})
}

// stopProcess freezes a process while something happens.
func stopProcess(pid int, meanwhile func()) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }() // it may have been killed
	meanwhile()
	return nil
}
