package link

import (
	"context"
	"slices"
)

// sabotage sits between the Sender and its stream. Built as usual it sends
// each frame once, in order. Built with one of the sabotage tags it does wrong
// what that tag says, with every eighth frame, to prove that the tests notice.
type sabotage struct {
	n    int
	held []byte
}

func (s *sabotage) send(ctx context.Context, st *Stream, frame []byte) error {
	if !sabotageDropFrame && !sabotageSwapFrame && !sabotageRepeatFrame {
		return st.Send(ctx, frame)
	}
	s.n++
	hit := s.n%8 == 0
	switch {
	case hit && sabotageDropFrame:
		return nil
	case hit && sabotageSwapFrame:
		s.held = slices.Clone(frame)
		return nil
	case hit && sabotageRepeatFrame:
		if err := st.Send(ctx, frame); err != nil {
			return err
		}
	}
	if err := st.Send(ctx, frame); err != nil {
		return err
	}
	if held := s.held; held != nil {
		s.held = nil
		return st.Send(ctx, held)
	}
	return nil
}
