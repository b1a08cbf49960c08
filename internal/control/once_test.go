package control

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"rebound/internal/problem"
)

func testLogger(_ *testing.T) *slog.Logger { return slog.New(slog.DiscardHandler) }

var stop = StopRequest{Machine: "m"}

func TestRepetitionIsAnsweredFromTheLedger(t *testing.T) {
	c := connect(t)
	o := Origin{Job: "j", Task: "t", Lease: 5}
	ctx := t.Context()
	for range 3 {
		if err := c.client.StopMachine(ctx, o, stop); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.rec.count(); n != 1 {
		t.Errorf("ran %d times", n)
	}
	// A new process with the same file still knows.
	c.server.Close()
	c.ledger.Close()
	var err error
	if c.ledger, err = OpenLedger(c.path, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.server = NewServer(ctx, c.rec, c.ledger, testLogger(t))
	c.dial(t)
	if err := c.client.StopMachine(ctx, o, stop); err != nil || c.rec.count() != 1 {
		t.Errorf("after a restart: %v, ran %d times", err, c.rec.count())
	}
	if err := c.client.StartMachine(ctx, o, MachineRequest{}); !problem.HasCode(err, problem.ProtocolError) {
		t.Errorf("another command under the same task: %v", err)
	}
}

func TestFailureIsKeptToo(t *testing.T) {
	c := connect(t)
	c.rec.err = problem.New(problem.NoRoom, "full")
	o := Origin{Job: "j", Task: "t"}
	for range 2 {
		if err := c.client.StopMachine(t.Context(), o, stop); !problem.HasCode(err, problem.NoRoom) {
			t.Fatal(err)
		}
	}
	if n := c.rec.count(); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

func TestStaleLeaseIsRefused(t *testing.T) {
	c := connect(t)
	ctx := t.Context()
	if err := c.client.StopMachine(ctx, Origin{Job: "j", Task: "a", Lease: 7}, stop); err != nil {
		t.Fatal(err)
	}
	for _, task := range []string{"a", "b"} { // a repetition, and something new
		if err := c.client.StopMachine(ctx, Origin{Job: "j", Task: task, Lease: 6}, stop); !problem.HasCode(err, problem.StaleLease) {
			t.Errorf("task %s under an older lease: %v", task, err)
		}
	}
	if n := c.rec.count(); n != 1 {
		t.Errorf("ran %d times", n)
	}
	c.ledger.Close()
	l, err := OpenLedger(c.path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.admit(6); !problem.HasCode(err, problem.StaleLease) {
		t.Errorf("an older lease after a restart: %v", err)
	}
}

func TestRunningCommandIsJoined(t *testing.T) {
	c := connect(t)
	release, begun := make(chan struct{}), make(chan struct{}, 1)
	c.rec.during = func(ctx context.Context) {
		ReportProgress(ctx, Progress{Done: 1, Total: 2})
		begun <- struct{}{}
		<-release
	}
	o := Origin{Job: "j", Task: "t"}
	var wg sync.WaitGroup
	seen := make(chan Progress, 100)
	errs := make(chan error, 2)
	for range 2 {
		wg.Go(func() {
			errs <- c.client.StopMachine(WithProgress(context.WithoutCancel(t.Context()), func(p Progress) { seen <- p }), o, stop)
		})
	}
	<-begun
	if p := <-seen; p.Done != 1 || p.Total != 2 {
		t.Errorf("progress %+v", p)
	}
	close(release)
	wg.Wait()
	if err := errors.Join(<-errs, <-errs); err != nil || c.rec.count() != 1 {
		t.Errorf("%v, ran %d times", err, c.rec.count())
	}
}

// TestConnectionLostInTheMiddle breaks the connection while a command runs: it
// goes on, and the hub's next connection brings its result.
func TestConnectionLostInTheMiddle(t *testing.T) {
	c := connect(t)
	hub := NewHub()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	defer cancel()
	attach := func() {
		a, b := tcpPair(t)
		go c.server.Serve(ctx, a)   //nolint:errcheck // ends with the connection
		go hub.Attach(ctx, "gw", b) //nolint:errcheck // ends with the connection
	}
	release, begun := make(chan struct{}), make(chan struct{}, 1)
	c.rec.during = func(context.Context) { begun <- struct{}{}; <-release }
	result := make(chan error, 1)
	go func() { result <- hub.Commands("gw").StopMachine(ctx, Origin{Job: "j", Task: "t"}, stop) }()
	attach()
	<-begun
	hub.Disconnect("gw")
	close(release)
	attach()
	if err := <-result; err != nil || c.rec.count() != 1 {
		t.Errorf("%v, ran %d times", err, c.rec.count())
	}
}

func TestUnconnectedGatewayIsUnreachable(t *testing.T) {
	hub := NewHub()
	_, err := hub.Commands("gw").Inventory(WithPatience(t.Context(), 0))
	if !problem.HasCode(err, problem.GatewayUnreachable) {
		t.Error(err)
	}
}

func TestLedgerTornTailAndDamage(t *testing.T) {
	c := connect(t)
	for _, task := range []string{"a", "b"} {
		if err := c.client.StopMachine(t.Context(), Origin{Job: "j", Task: task, Lease: 3}, stop); err != nil {
			t.Fatal(err)
		}
	}
	c.ledger.Close()
	whole, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	reopen := func(b []byte) (*Ledger, error) {
		if err := os.WriteFile(c.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return OpenLedger(c.path, time.Now())
	}
	// Cut anywhere after the header: it opens, and never knows too much.
	for cut := len(ledgerHeader); cut < len(whole); cut++ {
		l, err := reopen(whole[:cut])
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if _, ok, _ := l.find(Origin{Job: "j", Task: "b"}, "StopMachine"); ok {
			t.Fatalf("cut at %d: the torn row counts", cut)
		}
		l.Close()
	}
	// A flipped bit in the middle is damage, not a torn tail.
	bad := append([]byte(nil), whole...)
	bad[len(ledgerHeader)+20] ^= 1
	if _, err := reopen(bad); err == nil {
		t.Error("a damaged ledger was opened")
	}
	if _, err := reopen([]byte("something else\n")); !problem.HasCode(err, problem.ProtocolError) {
		t.Errorf("a foreign file: %v", err)
	}
	// Old rows go.
	if err := os.WriteFile(c.path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLedger(c.path, time.Now().Add(ledgerKeep+time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if len(l.results) != 0 || l.lease != 3 {
		t.Errorf("after 90 days: %d results, lease %d", len(l.results), l.lease)
	}
}
