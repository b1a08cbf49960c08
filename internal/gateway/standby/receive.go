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
	switch gen := jrn.Status().Generation; {
	case hello.Generation < gen && !sabotageStaleGeneration:
		g.mu.Lock()
		g.refused++
		g.mu.Unlock()
		return problem.New(problem.StaleGeneration, "group %s is at generation %d, the stream is of %d", g.id, gen, hello.Generation)
	case hello.Generation > gen:
		return problem.New(problem.OperationNotAllowed, "group %s is at generation %d here, the stream is of %d: it is to be sealed first", g.id, gen, hello.Generation)
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
	g.mu.Lock()
	recv := g.recv
	g.mu.Unlock()
	if recv == nil {
		return link.Welcome{}, nil, problem.New(problem.OperationNotAllowed, "the journal of group %s is being closed", g.id)
	}
	return recv.openStream(jrn, hello, durable)
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
	g   *group
	jrn *journal.Journal

	mu   sync.Mutex
	sink *sink
	full bool // the last frame found no room
}

func newReceiver(g *group, jrn *journal.Journal) *receiver {
	return &receiver{g: g, jrn: jrn}
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
		w.Fresh = !r.g.settings().Result.Seeded && before.IsZero()
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
	r.g.host.cfg.Changed()
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

// Append takes one frame. Without room the stream ends and comes again; older
// points stay, and it goes on by itself when there is room.
func (s *sink) Append(_ context.Context, frame []byte) error {
	err := s.r.jrn.Append(frame)
	s.r.room(!problem.HasCode(err, problem.NoRoom))
	return err
}

// room tells once that there is none, and once that there is again.
func (r *receiver) room(ok bool) {
	r.mu.Lock()
	changed := r.full == ok
	r.full = !ok
	r.mu.Unlock()
	switch {
	case changed && ok:
		r.g.event("JournalHasRoom", "info", "the journal of group %s has room again", r.g.id)
	case changed:
		r.g.event("JournalFull", "critical", "the journal of group %s has no room left: nothing new is confirmed, older points stay", r.g.id)
	}
}

// Close lets the next connection have the journal.
func (s *sink) Close() error {
	s.r.mu.Lock()
	if s.r.sink == s {
		s.r.sink = nil
	}
	s.r.mu.Unlock()
	s.r.g.host.cfg.Changed()
	return nil
}
