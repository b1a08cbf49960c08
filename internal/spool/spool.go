package spool

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"

	"rebound/internal/dr"
	"rebound/internal/journal/keyring"
	"rebound/internal/journal/vfs"
	"rebound/internal/link"
	"rebound/internal/problem"
)

// Config of a spool. All but FS, Limits, Log and Changed must be set.
type Config struct {
	Group   dr.GroupID
	Gateway dr.GatewayID
	// Dir holds the files; Socket is where the capture connects.
	Dir, Socket string
	// TLS is the gateway's, as a server of gateways: the inlet shows its
	// certificate, and lets nobody in but the gateway itself.
	TLS *tls.Config
	// Dial says how the standby of a target is reached; Hello's epoch is
	// filled in by the spool.
	Dial func(Target) (link.DialConfig, error)
	// FS is the file system; nil is the machine's.
	FS     vfs.FS
	Limits Limits
	// Keys wrap the key that the files are encrypted with; nil: they are not.
	Keys *keyring.Wrapping
	Log  *slog.Logger
	// Changed is told of each change of the connection or an end of an
	// episode. It must not block.
	Changed func()
}

// Target is where the entries of a generation go.
type Target struct {
	Generation  dr.Generation
	Disks       []dr.GroupDisk
	Standby     dr.GatewayID
	StandbyAddr string
}

// State is how far a spool is.
type State struct {
	Generation dr.Generation
	Epoch      dr.Epoch
	// The newest entries that were taken, are safe in the spool, and are
	// durable at the standby.
	Appended, Durable, Delivered dr.Seq
	// Bytes on disk; delivered ones go file by file. Backlog is how many of
	// them are still to be handed out.
	Bytes, Backlog int64
	// Reachable says that the standby was last found to take entries; Err why
	// it does not, Permanent that nothing but a discard helps.
	Reachable bool
	Err       error
	Permanent bool
}

// Empty reports whether everything has been delivered.
func (s State) Empty() bool { return s.Delivered == s.Appended }

// Spool is one group's spool. All methods may be called concurrently.
type Spool struct {
	cfg    Config
	store  *store
	stop   context.CancelFunc
	wg     sync.WaitGroup
	listen net.Listener

	mu        sync.Mutex
	to        Target
	changed   chan struct{} // closed when to changes or the spool is discarded
	cancel    context.CancelFunc
	reachable bool
	err       error
	permanent bool
}

// Open takes up what an earlier process left and serves the inlet. Nothing is
// delivered before SetTarget has said where to.
func Open(ctx context.Context, cfg Config) (*Spool, error) {
	if cfg.FS == nil {
		cfg.FS = vfs.OS{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	st, err := openStore(cfg.FS, cfg.Dir, cfg.Group, cfg.Limits, cfg.Keys)
	if err != nil {
		return nil, err
	}
	s := &Spool{cfg: cfg, store: st, changed: make(chan struct{}), cancel: func() {}}
	if err := s.serve(ctx); err != nil {
		st.close()
		return nil, err
	}
	return s, nil
}

// serve starts inlet and outlet.
func (s *Spool) serve(ctx context.Context) error {
	// The clocks of both ends are one.
	server, err := link.NewServer(link.ServerConfig{TLS: s.cfg.TLS, Handler: inlet{s}, Log: s.cfg.Log, MaxClockSkew: -1})
	if err != nil {
		return fmt.Errorf("make inlet: %w", err)
	}
	if err := os.Remove(s.cfg.Socket); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("listen for the capture: %w", err)
	}
	if s.listen, err = net.Listen("unix", s.cfg.Socket); err != nil {
		return fmt.Errorf("listen for the capture: %w", err)
	}
	ctx, s.stop = context.WithCancel(ctx)
	s.wg.Go(func() {
		if err := server.Serve(ctx, s.listen); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("the spool's socket failed", "group", s.cfg.Group, "error", err)
		}
	})
	s.wg.Go(func() { s.deliver(ctx) })
	return nil
}

// Close stops delivering and lets go of the files. What is in them stays.
func (s *Spool) Close() {
	s.stop()
	s.wg.Wait()
	_ = s.store.sync() // what is not durable was not acknowledged
	s.store.close()
}

// SetTarget says where entries go from now on. Entries of another generation
// that are still there stay until they are discarded.
func (s *Spool) SetTarget(t Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to.Generation == t.Generation && s.to.Standby == t.Standby && s.to.StandbyAddr == t.StandbyAddr && slices.Equal(s.to.Disks, t.Disks) {
		return
	}
	s.to = t
	s.stirLocked()
}

// stirLocked ends what the outlet is at and lets it look again.
func (s *Spool) stirLocked() {
	s.reachable, s.err, s.permanent = false, nil, false
	s.cancel()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Spool) target() Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to
}

// State returns how far the spool is.
func (s *Spool) State() State {
	st := s.store.state()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Reachable, st.Err, st.Permanent = s.reachable, s.err, s.permanent
	return st
}

func (s *store) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return State{
		Generation: s.gen, Epoch: s.epoch, Appended: s.appended, Durable: s.durable, Delivered: s.delivered,
		Bytes: s.bytes, Backlog: s.backlog(),
	}
}

// backlog is how many bytes lie behind the reader; the caller holds mu.
func (s *store) backlog() int64 {
	var n int64
	for _, fl := range s.files {
		switch {
		case fl.Number == s.readNumber:
			n += fl.size - s.readOff
		case fl.Number > s.readNumber:
			n += fl.size
		}
	}
	return n
}

// Finish waits until everything that is in the spool is durable at the standby.
// It fails when ctx ends, or at once when delivering is pointless.
func (s *Spool) Finish(ctx context.Context) error {
	for {
		s.store.mu.Lock()
		done, failed, moved := s.store.delivered == s.store.appended, s.store.failed, s.store.moved
		s.store.mu.Unlock()
		s.mu.Lock()
		permanent, err, changed := s.permanent, s.err, s.changed
		s.mu.Unlock()
		switch {
		case done:
			return nil
		case failed != nil:
			return failed
		case permanent:
			return fmt.Errorf("deliver the spool of group %s: %w", s.cfg.Group, err)
		}
		select {
		case <-moved:
		case <-changed:
		case <-ctx.Done():
			st := s.State()
			if st.Err != nil {
				err = st.Err
			} else {
				err = ctx.Err()
			}
			return problem.Wrap(err, problem.GatewayUnreachable, "the spool of group %s holds %d entries that the standby lacks", s.cfg.Group, st.Appended-st.Delivered)
		}
	}
}

// Discard deletes everything that is in the spool: the standby will be made
// equal in another way.
func (s *Spool) Discard() error {
	s.mu.Lock()
	s.stirLocked()
	s.mu.Unlock()
	return s.store.discard()
}
