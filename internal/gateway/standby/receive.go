package standby

import (
	"context"
	"errors"
	"slices"
	"sync"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/journal"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/resync"
)

// Admit decides whether a peer may speak for a group (link.Handler).
func (h *Host) Admit(_ context.Context, peer link.Peer, hello *link.Hello) error {
	g, err := h.find(hello.Group)
	if err != nil {
		return err
	}
	who, err := identity.PeerOf(peer.State)
	if err != nil {
		return err
	}
	set := g.settings()
	if who.Role != identity.RoleGateway || dr.GatewayID(who.Name) != set.Request.Source {
		return problem.New(problem.PermissionDenied, "%s is not the source of group %s, which is gateway %s", who, g.id, set.Request.Source)
	}
	if !slices.Equal(hello.Disks, set.Request.Disks) {
		return problem.New(problem.InvalidRequest, "the disk table of the stream is not that of the journal of group %s", g.id)
	}
	if set.Phase != phaseJournal {
		return problem.New(problem.StaleGeneration, "group %s was committed here", g.id)
	}
	jrn, err := g.open()
	if err != nil {
		return err
	}
	if gen := jrn.Status().Generation; hello.Generation != gen {
		return problem.New(problem.StaleGeneration, "group %s is at generation %d, the stream is of %d", g.id, gen, hello.Generation)
	}
	return nil
}

// OpenStream begins or goes on with an epoch (link.Handler).
func (h *Host) OpenStream(_ context.Context, _ link.Peer, hello *link.Hello, durable func(dr.Seq)) (link.Welcome, link.StreamSink, error) {
	g, err := h.find(hello.Group)
	if err != nil {
		return link.Welcome{}, nil, err
	}
	jrn, err := g.open()
	if err != nil {
		return link.Welcome{}, nil, err
	}
	return g.recv.openStream(jrn, hello, durable)
}

// OpenCompare answers what the head views hold (link.Handler).
func (h *Host) OpenCompare(_ context.Context, _ link.Peer, hello *link.Hello) (link.Comparer, error) {
	g, err := h.find(hello.Group)
	if err != nil {
		return nil, err
	}
	jrn, err := g.open()
	if err != nil {
		return nil, err
	}
	return resync.NewStandby(func(disk uint16) (block.Device, error) { return jrn.HeadView(disk) }, nil), nil
}

// receiver takes a group's stream into its journal, one connection at a time.
type receiver struct {
	jrn     *journal.Journal
	changed func()

	mu   sync.Mutex
	sink *sink
}

func newReceiver(jrn *journal.Journal, changed func()) *receiver {
	return &receiver{jrn: jrn, changed: changed}
}

// sink is one connection's way into the journal (link.StreamSink).
type sink struct {
	r       *receiver
	epoch   dr.Epoch
	durable func(dr.Seq)
}

func (r *receiver) openStream(jrn *journal.Journal, hello *link.Hello, durable func(dr.Seq)) (link.Welcome, link.StreamSink, error) {
	before, err := jrn.Sync()
	if err != nil {
		return link.Welcome{}, nil, err
	}
	w := link.Welcome{Epoch: hello.Epoch}
	if hello.Epoch == 0 {
		w.Fresh = !jrn.Status().Seeded && before.IsZero()
		w.PreviousDurable = before
		if w.Epoch, err = jrn.NewEpoch(hello.Generation); err != nil {
			return link.Welcome{}, nil, err
		}
	} else {
		now := jrn.Appended()
		if now.Generation != hello.Generation || now.Epoch != hello.Epoch {
			return link.Welcome{}, nil, problem.New(problem.StaleGeneration, "the stream is of epoch %d, the journal is at %s", hello.Epoch, now)
		}
		w.Durable = before.Seq
	}
	s := &sink{r: r, epoch: w.Epoch, durable: durable}
	r.mu.Lock()
	r.sink = s
	r.mu.Unlock()
	r.changed()
	return w, s, nil
}

// connected reports whether a stream is open.
func (r *receiver) connected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sink != nil
}

// commitLoop makes what was appended durable and tells the sender.
func (r *receiver) commitLoop(ctx context.Context, failed func(error)) {
	err := r.jrn.Commit(ctx, func(pos dr.Position) {
		r.mu.Lock()
		s := r.sink
		r.mu.Unlock()
		if s != nil && s.epoch == pos.Epoch {
			s.durable(pos.Seq)
		}
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, journal.ErrClosed) {
		failed(err)
	}
}

// Append takes one frame.
func (s *sink) Append(_ context.Context, frame []byte) error { return s.r.jrn.Append(frame) }

// Close lets the next connection have the journal.
func (s *sink) Close() error {
	s.r.mu.Lock()
	if s.r.sink == s {
		s.r.sink = nil
	}
	s.r.mu.Unlock()
	s.r.changed()
	return nil
}
