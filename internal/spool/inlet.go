package spool

import (
	"context"
	"errors"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
)

// inlet takes the stream from the capture (link.Handler and link.StreamSink).
type inlet struct{ s *Spool }

// Admit lets in this site's own gateway, in whose name the capture speaks.
func (in inlet) Admit(_ context.Context, peer link.Peer, hello *link.Hello) error {
	who, err := identity.PeerOf(peer.State)
	if err != nil {
		return err
	}
	c := &in.s.cfg
	switch {
	case who.Role != identity.RoleGateway || dr.GatewayID(who.Name) != c.Gateway:
		return problem.New(problem.PermissionDenied, "%s is not gateway %s", who, c.Gateway)
	case hello.Group != c.Group:
		return problem.New(problem.UnknownGroup, "the spool is of group %s", c.Group)
	case hello.Purpose != link.PurposeStream || hello.Epoch == 0:
		return problem.New(problem.InvalidRequest, "a spool takes streams that have begun")
	}
	st := in.s.target()
	if st.Generation != hello.Generation || !slices.Equal(st.Disks, hello.Disks) {
		return problem.New(problem.StaleGeneration, "the spool delivers generation %d of group %s", st.Generation, c.Group)
	}
	return nil
}

// OpenStream readies the store.
func (in inlet) OpenStream(_ context.Context, _ link.Peer, hello *link.Hello, durable func(dr.Seq)) (link.Welcome, link.StreamSink, error) {
	if err := in.s.store.sync(); err != nil {
		return link.Welcome{}, nil, err
	}
	at, err := in.s.store.begin(hello.Generation, hello.Epoch, hello.After)
	if err != nil {
		return link.Welcome{}, nil, err
	}
	s := &sink{store: in.s.store, stop: make(chan struct{}), ended: make(chan struct{}), kick: make(chan struct{}, 1)}
	go s.commit(durable)
	return link.Welcome{Epoch: hello.Epoch, Durable: at}, s, nil
}

// OpenCompare refuses: a spool has no disks.
func (inlet) OpenCompare(context.Context, link.Peer, *link.Hello) (link.Comparer, error) {
	return nil, errors.New("a spool compares nothing")
}

// sink is one connection into the store. Appending never waits for the disk's
// flush: a goroutine of its own makes durable whatever has gathered.
type sink struct {
	store *store
	kick  chan struct{}
	stop  chan struct{}
	ended chan struct{}
}

// Append implements link.StreamSink.
func (s *sink) Append(_ context.Context, frame []byte) error {
	if err := s.store.append(frame); err != nil {
		return err
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
	return nil
}

func (s *sink) commit(durable func(dr.Seq)) {
	defer close(s.ended)
	for {
		select {
		case <-s.kick:
		case <-s.stop:
			return
		}
		if s.store.sync() != nil {
			return // the next Append tells the capture
		}
		durable(s.store.state().Durable)
	}
}

// Close implements link.StreamSink.
func (s *sink) Close() error {
	close(s.stop)
	<-s.ended
	return s.store.sync()
}
