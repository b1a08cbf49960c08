package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/segment"
)

// TestMain is also the capture process that tests supervise.
func TestMain(m *testing.M) {
	if dir := os.Getenv("REBOUND_TEST_CAPTURE"); dir != "" {
		alone, _ := time.ParseDuration(os.Getenv("REBOUND_TEST_ALONE"))
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := Run(ctx, Config{Dir: dir, AloneTimeout: alone})
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// supervised is a capture process of its own with a configured group.
type supervised struct {
	t       *testing.T
	dir     string
	cfg     SupervisorConfig
	group   GroupConfig
	standby *standby
	process *Process
}

func newSupervised(t *testing.T, disks int, alone time.Duration) *supervised {
	t.Helper()
	dir, err := os.MkdirTemp("", "cap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &supervised{t: t, dir: dir, standby: newStandby(t)}
	s.cfg = SupervisorConfig{
		Dir: dir, Argv: []string{os.Args[0]}, Output: os.Stderr,
		Env: []string{"REBOUND_TEST_CAPTURE=" + dir, "REBOUND_TEST_ALONE=" + alone.String()},
	}
	s.group = GroupConfig{
		Group: "grp", Generation: 1, Gateway: "gw-source", Standby: "gw-standby", StandbyAddr: s.standby.addr,
		Identity: s.standby.identity,
	}
	for i := range disks {
		s.group.Disks = append(s.group.Disks, dr.GroupDisk{
			Machine: "vm", Disk: dr.DiskID(fmt.Sprint("disk", i)), SizeBytes: testDiskSize,
		})
	}
	s.process = s.start()
	return s
}

func (s *supervised) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	s.t.Cleanup(cancel)
	return ctx
}

// start starts or adopts the process; its end is seen to.
func (s *supervised) start() *Process {
	s.t.Helper()
	p, err := Start(s.ctx(), s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.Kill)
	if err := p.Client().Configure(s.ctx(), s.group); err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *supervised) disk(i int) *nbd.Client {
	s.t.Helper()
	c, err := nbd.Dial(s.ctx(), "unix", NBDSocket(s.dir), nbd.Options{Export: ExportName(i)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// stream attaches disk 0, opens an epoch and writes once.
func (s *supervised) stream() *nbd.Client {
	s.t.Helper()
	c := s.disk(0)
	if _, err := s.process.Client().Open(s.ctx()); err != nil {
		s.t.Fatal(err)
	}
	if err := c.WriteAt(bg(), pattern(1, 4096), 0); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *supervised) awaitEnd(p *Process, within time.Duration) error {
	s.t.Helper()
	select {
	case <-p.Done():
		return p.Err()
	case <-time.After(within):
		s.t.Fatalf("process still runs after %v", within)
		return nil
	}
}

func breakReason(t *testing.T, entries []storedEntry) string {
	t.Helper()
	var b segment.Break
	if err := b.UnmarshalBinary(entries[len(entries)-1].data); err != nil {
		t.Fatal(err)
	}
	return b.Reason
}

func TestAdoption(t *testing.T) {
	s := newSupervised(t, 1, time.Minute)
	if s.process.Adopted() {
		t.Error("a new process counts as adopted")
	}
	disk := s.stream()
	pid := s.process.PID()
	s.process.Release() // as if the gateway had gone

	again := s.start()
	if !again.Adopted() || again.PID() != pid {
		t.Fatalf("adopted %v pid %d, want pid %d", again.Adopted(), again.PID(), pid)
	}
	if err := disk.WriteAt(bg(), pattern(2, 4096), 4096); err != nil {
		t.Fatal(err)
	}
	st, err := again.Client().Status(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if st.State != StateOpen || st.Head.Seq != 2 || st.PID != pid || st.Group != "grp" || st.Disks[0].Conns != 1 {
		t.Errorf("status after adoption: %+v", st)
	}
	other := s.group
	other.Generation++
	if err := again.Client().Configure(s.ctx(), other); err == nil {
		t.Error("another generation was configured while an epoch was open")
	}
	if err := again.Client().Shutdown(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := s.awaitEnd(again, 5*time.Second); err != nil {
		t.Errorf("orderly end: %v", err)
	}
	if r := breakReason(t, s.standby.awaitBreak()); !strings.Contains(r, "gateway asked") {
		t.Errorf("reason %q", r)
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	s := newSupervised(t, 1, time.Minute)
	err := Run(s.ctx(), Config{Dir: s.dir})
	if err == nil || !strings.Contains(err.Error(), "another capture process") {
		t.Errorf("a second process in the directory: %v", err)
	}
}

// TestAloneSealsAndEnds: without a gateway for the time allowed, the stream is
// broken in an orderly way.
func TestAloneSealsAndEnds(t *testing.T) {
	s := newSupervised(t, 1, 300*time.Millisecond)
	s.stream()
	if _, err := s.process.Client().Drain(s.ctx()); err != nil {
		t.Fatal(err)
	}
	s.process.Release()
	entries := s.standby.awaitBreak()
	if r := breakReason(t, entries); !strings.Contains(r, "no gateway") || len(entries) != 2 {
		t.Errorf("%d entries, reason %q", len(entries), r)
	}
	select {
	case <-s.process.handle.done:
	case <-time.After(5 * time.Second):
		t.Error("the process did not end")
	}
}

func TestTermSeals(t *testing.T) {
	s := newSupervised(t, 1, time.Minute)
	s.stream()
	if err := syscall.Kill(s.process.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.awaitEnd(s.process, 5*time.Second); err != nil {
		t.Errorf("end: %v", err)
	}
	if entries := s.standby.awaitBreak(); len(entries) != 2 {
		t.Errorf("%d entries, want the write and the break", len(entries))
	}
}

// TestSilentProcessIsKilled: a stopped process is killed half a second after
// its last sign of life, and its clients' sockets close.
func TestSilentProcessIsKilled(t *testing.T) {
	s := newSupervised(t, 1, time.Minute)
	disk := s.stream()
	if err := syscall.Kill(s.process.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var stall time.Duration
	var err error
	for err == nil { // the first may still be answered
		start := time.Now()
		err = disk.WriteAt(bg(), pattern(2, 4096), 4096)
		stall = time.Since(start)
	}
	if stall > time.Second || stall < 300*time.Millisecond {
		t.Errorf("the write stalled for %v, want about half a second", stall)
	}
	if err = s.awaitEnd(s.process, time.Second); !errors.Is(err, ErrSilent) {
		t.Errorf("end: %v, want ErrSilent", err)
	}
}

// TestHungProcessIsReplaced: a gateway that finds a process that hangs does not
// wait for it.
func TestHungProcessIsReplaced(t *testing.T) {
	s := newSupervised(t, 1, time.Minute)
	s.process.Release()
	if err := syscall.Kill(s.process.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	again := s.start()
	if again.Adopted() || again.PID() == s.process.PID() {
		t.Errorf("adopted %v pid %d", again.Adopted(), again.PID())
	}
}

func TestStartFailsWhenProcessDoes(t *testing.T) {
	s := newSupervised(t, 1, time.Minute)
	cfg := s.cfg
	cfg.Dir += "-other"
	cfg.Env = []string{"REBOUND_TEST_CAPTURE=/nonexistent"}
	cfg.Output = nil
	t.Cleanup(func() { _ = os.RemoveAll(cfg.Dir) })
	if _, err := Start(s.ctx(), cfg); err == nil || !strings.Contains(err.Error(), "ended at once") {
		t.Errorf("start: %v", err)
	}
}
