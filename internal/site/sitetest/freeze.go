package sitetest

import (
	"context"
	"time"

	"rebound/internal/problem"
	"rebound/internal/site"
)

// freeze: the suite's machines have no operating system, and so no agent that
// could freeze anything. What a driver may say then is the same for all: no
// guest is frozen, none stays so, and nobody waits for longer than was agreed.
func (s *suite) freeze() {
	f, ok := s.d.(site.Freezer)
	if !ok || !s.d.Capabilities().Freezer {
		s.Skip("this site freezes no guests")
	}
	s.must(s.d.Create(s.ctx, s.definition("a")))
	if err := f.Freeze(s.ctx, "nobody", time.Second); !problem.HasCode(err, problem.UnknownMachine) {
		s.Errorf("freeze of an unknown machine: %v", err)
	}
	if err := f.Freeze(s.ctx, "a", time.Second); err == nil {
		s.Error("froze a machine that is off")
	}
	s.must(s.d.Start(s.ctx, "a", site.StartOptions{Paused: true}))
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	s.code(f.Freeze(ctx, "a", time.Minute), problem.GuestNotFrozen)
	if ctx.Err() != nil && s.ctx.Err() != nil {
		s.Error("a guest without an agent held its caller up")
	}
	// Stopping it is not held up by a freeze that failed.
	s.must(s.d.Stop(s.ctx, "a", site.Hard, time.Second))
	s.state("a", site.Off)
}
