package spool

import (
	"context"

	"rebound/internal/dr"
	"rebound/internal/link"
)

// deliver sends what the store holds to the standby, episode after episode,
// until ctx ends. It is connected only while there is something to deliver: the
// standby takes one stream of a group at a time, and most of the time that is
// the capture's own.
func (s *Spool) deliver(ctx context.Context) {
	for {
		target, ok := s.awaitWork(ctx)
		if !ok {
			return
		}
		err := s.episode(ctx, target)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.reachable, s.err, s.permanent = err == nil, err, err != nil && link.Permanent(err)
		stuck, changed := s.permanent, s.changed
		s.mu.Unlock()
		s.cfg.Changed()
		if !stuck {
			continue
		}
		s.store.poke() // Finish waits in vain
		s.cfg.Log.Error("the spool cannot be delivered", "group", s.cfg.Group, "error", err)
		select { // until there is another target, or the spool is discarded
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// awaitWork waits until something is to be delivered and it is known where to.
func (s *Spool) awaitWork(ctx context.Context) (Target, bool) {
	for {
		s.store.mu.Lock()
		work, moved := s.store.durable > s.store.delivered && s.store.failed == nil, s.store.moved
		gen := s.store.gen
		s.store.mu.Unlock()
		s.mu.Lock()
		target, changed := s.to, s.changed
		s.mu.Unlock()
		if work && target.Generation == gen {
			return target, true
		}
		select {
		case <-moved:
		case <-changed:
		case <-ctx.Done():
			return Target{}, false
		}
	}
}

// episode delivers until nothing is left.
func (s *Spool) episode(ctx context.Context, target Target) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.cancel = cancel
	s.mu.Unlock()
	dial, err := s.cfg.Dial(target)
	if err != nil {
		return err
	}
	st := s.store.state()
	dial.Hello.Epoch, dial.Hello.After = st.Epoch, s.store.first()
	sender, err := link.NewSender(link.SenderConfig{Dial: dial, OnState: s.linkState})
	if err != nil {
		return err
	}
	if _, err := sender.Open(ctx); err != nil {
		return err
	}
	return sender.Run(ctx, newReader(s.store))
}

func (s *Spool) linkState(st link.SenderStatus) {
	s.mu.Lock()
	before := s.reachable
	switch {
	case st.Connected:
		s.reachable, s.err = true, nil
	case st.LastError != nil:
		s.reachable, s.err, s.permanent = false, st.LastError, link.Permanent(st.LastError)
	}
	changed := before != s.reachable
	s.mu.Unlock()
	if changed {
		s.cfg.Changed()
	}
}

// first returns the entry before the first that the store ever held.
func (s *store) first() dr.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}
