package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/journal"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/resync"
)

// serveConfig is what the standby process reads from its standard input.
type serveConfig struct {
	Dir      string // for journals and bases
	Control  string // Unix socket of its commands
	Views    string // Unix socket on which it serves views
	Port     string // on which it takes streams
	Identity identity.Bundle
	Profile  string // file for a CPU profile; empty: none
}

// Serve is the standby process: a link server in front of journals, as a
// gateway has it. Its configuration is on standard input; it runs until it is
// asked to end.
func Serve(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var cfg serveConfig
	if err := json.NewDecoder(os.Stdin).Decode(&cfg); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return profiled(cfg.Profile, func() error { return serve(ctx, cfg) })
}

func serve(ctx context.Context, cfg serveConfig) error {
	h := &keeper{cfg: cfg, groups: map[dr.GroupID]*kept{}}
	defer h.close()
	conf, err := cfg.Identity.ServerTLS(identity.RoleGateway)
	if err != nil {
		return err
	}
	server, err := link.NewServer(link.ServerConfig{TLS: conf, Handler: h})
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp", "127.0.0.1:"+cfg.Port)
	if err != nil {
		return fmt.Errorf("listen for streams: %w", err)
	}
	if err := h.serveCommands(ctx); err != nil {
		return errors.Join(err, streams.Close())
	}
	return server.Serve(ctx, streams)
}

// serveCommands answers commands in the background until ctx ends.
func (h *keeper) serveCommands(ctx context.Context) error {
	commands := rpc.NewServer()
	if err := commands.RegisterName("Standby", &commandSet{h: h, ctx: ctx}); err != nil {
		return fmt.Errorf("offer commands: %w", err)
	}
	l, err := net.Listen("unix", h.cfg.Control)
	if err != nil {
		return fmt.Errorf("listen for commands: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go commands.Accept(l) // ends when the listener is closed
	return nil
}

// keeper keeps the journals of all groups (link.Handler).
type keeper struct {
	cfg serveConfig

	mu     sync.Mutex
	groups map[dr.GroupID]*kept
}

// kept is one group's journal with its receiver.
type kept struct {
	jrn    *journal.Journal
	dir    string
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	epoch   dr.Epoch
	durable func(dr.Seq)
	failed  error
}

func (h *keeper) find(id dr.GroupID) (*kept, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k := h.groups[id]; k != nil {
		return k, nil
	}
	return nil, problem.New(problem.UnknownGroup, "%s", id)
}

// create makes a group's journal and begins its group commit.
func (h *keeper) create(ctx context.Context, id dr.GroupID, disks []dr.GroupDisk) error {
	dir := filepath.Join(h.cfg.Dir, string(id))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make group's folder: %w", err)
	}
	cfg := journal.Config{Group: id, Generation: 1, Disks: disks}
	for _, d := range disks {
		cfg.BasePaths = append(cfg.BasePaths, filepath.Join(dir, string(d.Machine)+"."+string(d.Disk)+".base"))
	}
	jrn, err := journal.Create(ctx, filepath.Join(dir, "journal"), cfg, journal.Options{})
	if err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k := &kept{jrn: jrn, dir: dir, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(k.done)
		k.fail(jrn.Commit(run, k.committed))
	}()
	h.mu.Lock()
	h.groups[id] = k
	h.mu.Unlock()
	return nil
}

func (k *kept) committed(pos dr.Position) {
	k.mu.Lock()
	tell, epoch := k.durable, k.epoch
	k.mu.Unlock()
	if tell != nil && epoch == pos.Epoch {
		tell(pos.Seq)
	}
}

func (k *kept) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !errors.Is(err, context.Canceled) {
		k.failed = err
	}
}

// end closes the journal and deletes the group's folder.
func (k *kept) end() error {
	k.cancel()
	<-k.done
	return errors.Join(k.jrn.Close(), os.RemoveAll(k.dir))
}

func (h *keeper) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.groups {
		_ = k.end() // the directory is deleted next
	}
}

// Admit takes any stream of a group that is here (link.Handler).
func (h *keeper) Admit(_ context.Context, _ link.Peer, hello *link.Hello) error {
	_, err := h.find(hello.Group)
	return err
}

// OpenStream begins or goes on with an epoch (link.Handler).
func (h *keeper) OpenStream(_ context.Context, _ link.Peer, hello *link.Hello, durable func(dr.Seq)) (link.Welcome, link.StreamSink, error) {
	k, err := h.find(hello.Group)
	if err != nil {
		return link.Welcome{}, nil, err
	}
	before, err := k.jrn.Sync()
	if err != nil {
		return link.Welcome{}, nil, err
	}
	w := link.Welcome{Epoch: hello.Epoch}
	if hello.Epoch == 0 {
		w.PreviousDurable, w.Fresh = before, before.IsZero()
		if w.Epoch, err = k.jrn.NewEpoch(hello.Generation); err != nil {
			return link.Welcome{}, nil, err
		}
	} else {
		w.Durable = before.Seq
	}
	k.mu.Lock()
	k.epoch, k.durable = w.Epoch, durable
	k.mu.Unlock()
	return w, sink{k.jrn}, nil
}

// OpenCompare answers what the head views hold (link.Handler).
func (h *keeper) OpenCompare(_ context.Context, _ link.Peer, hello *link.Hello) (link.Comparer, error) {
	k, err := h.find(hello.Group)
	if err != nil {
		return nil, err
	}
	return resync.NewStandby(func(disk uint16) (block.Device, error) { return k.jrn.HeadView(disk) }, nil), nil
}

// sink appends a stream's frames (link.StreamSink).
type sink struct{ jrn *journal.Journal }

func (s sink) Append(_ context.Context, frame []byte) error { return s.jrn.Append(frame) }
func (s sink) Close() error                                 { return nil }

// lag is how old the newest confirmed moment that is durable is.
func (k *kept) lag(now time.Time) (time.Duration, bool) {
	s := k.jrn.Status()
	return now.Sub(s.ConfirmedTime), !s.Confirmed.IsZero()
}
