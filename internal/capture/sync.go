package capture

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/link"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/resync"
)

// sourceDialTimeout bounds the connection to a hypervisor's export.
const sourceDialTimeout = 10 * time.Second

// progressEvery is the least time between two events of progress.
const progressEvery = 200 * time.Millisecond

// syncRun is a running synchronisation or verification.
type syncRun struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	st   SyncStatus
	told time.Duration
}

func (r *syncRun) status() SyncStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.st
}

// moved takes progress in; it reports whether it is time to tell of it.
func (r *syncRun) moved(p resync.Progress, now time.Duration) (SyncStatus, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.st.Total, r.st.Done, r.st.Sent = p.Total, max(r.st.Done, p.Done), max(r.st.Sent, p.Sent)
	tell := now-r.told >= progressEvery
	if tell {
		r.told = now
	}
	return r.st, tell
}

// startSync begins a synchronisation (or a verification) of the open epoch.
func (g *group) startSync(req SyncRequest) error {
	if err := g.checkSync(&req); err != nil {
		return problem.New(problem.InvalidRequest, "%v", err)
	}
	g.opening.Lock()
	defer g.opening.Unlock()
	g.mu.Lock()
	busy := g.sync != nil
	g.mu.Unlock()
	if busy {
		return problem.New(problem.OperationRunning, "a synchronisation is running")
	}
	seq, err := g.q.beginSync()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(g.ctx)
	run := &syncRun{cancel: cancel, done: make(chan struct{})}
	run.st = SyncStatus{Running: true, Mode: req.Mode, Verify: req.Verify, Epoch: seq.epoch}
	g.mu.Lock()
	g.sync = run
	g.mu.Unlock()
	g.wg.Go(func() {
		defer cancel()
		err := g.runSync(ctx, run, seq, &req)
		seq.endSync()
		g.endedSync(run, err, ctx.Err() != nil)
	})
	return nil
}

func (g *group) checkSync(req *SyncRequest) error {
	if m := req.Mode; m != resync.ModeCopy && m != resync.ModeBitmap && m != resync.ModeCompare {
		return fmt.Errorf("mode %q: want %s, %s or %s", m, resync.ModeCopy, resync.ModeBitmap, resync.ModeCompare)
	}
	if req.Verify && req.Mode != resync.ModeCompare {
		return fmt.Errorf("mode %q: a verification compares", req.Mode)
	}
	seen := map[uint16]bool{}
	for _, d := range req.Disks {
		if int(d.Index) >= len(g.q.disks) || seen[d.Index] {
			return fmt.Errorf("disk %d: unknown or named twice", d.Index)
		}
		seen[d.Index] = true
	}
	return nil
}

// runSync opens the sources and runs to the end.
func (g *group) runSync(ctx context.Context, run *syncRun, seq *syncSequencer, req *SyncRequest) error {
	sources, release, err := g.openSources(ctx, req.Disks)
	defer release()
	if err != nil {
		return err
	}
	dial, err := g.dialConfig()
	if err != nil {
		return err
	}
	ask := func(ctx context.Context) (resync.Asker, error) {
		return link.DialCompare(ctx, dial)
	}
	progress := func(p resync.Progress) {
		if st, tell := run.moved(p, g.q.clock.Mono()); tell {
			g.emit(Event{Kind: EventSync, Sync: &st})
		}
	}
	if req.Verify {
		return run.verify(ctx, resync.VerifyConfig{
			Sources: sources, Tracker: seq, Dial: ask, Epoch: seq.epoch, OnProgress: progress,
		})
	}
	s, err := resync.New(resync.Config{
		Sources: sources, Mode: req.Mode, Sequencer: seq, Dial: ask, Epoch: seq.epoch, OnProgress: progress,
	})
	if err != nil {
		return err
	}
	r, err := s.Run(ctx)
	if err != nil {
		return err
	}
	run.mu.Lock()
	run.st.Done, run.st.Sent, run.st.Ended = r.Compared, r.Copied, r.End
	run.mu.Unlock()
	return nil
}

func (r *syncRun) verify(ctx context.Context, cfg resync.VerifyConfig) error {
	v, err := resync.Verify(ctx, cfg)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.st.Done, r.st.Differing, r.st.Unsettled = v.Compared, bytesOf(v.Differing), bytesOf(v.Unsettled)
	return nil
}

func bytesOf(sets map[uint16]*extent.Set) int64 {
	var n int64
	for _, s := range sets {
		n += s.Bytes()
	}
	return n
}

// openSources connects to the hypervisors' exports. release closes those that
// were opened, also after an error.
func (g *group) openSources(ctx context.Context, disks []SyncDisk) (sources []resync.Source, release func(), err error) {
	var clients []*nbd.Client
	release = func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}
	table := g.diskTable()
	for _, d := range disks {
		dialing, cancel := context.WithTimeout(ctx, sourceDialTimeout)
		c, err := nbd.Dial(dialing, "unix", d.Socket, nbd.Options{Export: d.Export})
		cancel()
		if err != nil {
			return nil, release, problem.Wrap(err, problem.HypervisorError, "open source of disk %d: %v", d.Index, err)
		}
		clients = append(clients, c)
		if want := table[d.Index].SizeBytes; c.Size() != want {
			return nil, release, problem.New(problem.DiskNotSupported, "the source of disk %d has %d bytes, the group's table says %d", d.Index, c.Size(), want)
		}
		s := resync.Source{Index: d.Index, Device: c}
		if !d.All {
			s.Ranges = extent.NewSet(d.Ranges...)
		}
		sources = append(sources, s)
	}
	return sources, release, nil
}

func (g *group) diskTable() []dr.GroupDisk {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.Disks
}

// endedSync keeps and tells how a synchronisation ended, cancelled or not.
func (g *group) endedSync(run *syncRun, err error, cancelled bool) {
	run.mu.Lock()
	run.st.Running = false
	switch {
	case err != nil && cancelled:
		run.st.Error = problem.Wrap(err, problem.OperationNotAllowed, "the synchronisation was cancelled")
	case err != nil:
		run.st.Error = wire(err)
	}
	st := run.st
	run.mu.Unlock()
	g.mu.Lock()
	g.synced, g.sync = st, nil
	g.mu.Unlock()
	close(run.done)
	g.log.Info("synchronisation ended", "mode", st.Mode, "verify", st.Verify, "done", st.Done, "sent", st.Sent, "error", err)
	g.emit(Event{Kind: EventSync, Sync: &st})
}

// cancelSync ends a running synchronisation and waits for its end.
func (g *group) cancelSync() {
	g.mu.Lock()
	run := g.sync
	g.mu.Unlock()
	if run != nil {
		run.cancel()
		<-run.done
	}
}
