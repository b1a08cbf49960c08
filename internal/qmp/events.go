package qmp

import (
	"context"
	"slices"
	"sync"
)

// maxQueued bounds a subscription that nobody reads; the oldest events go.
const maxQueued = 4096

// Subscription is a queue of events. It never slows the connection down.
type Subscription struct {
	client *Client
	names  []string

	mu     sync.Mutex
	queue  []Event
	lost   int
	closed bool
	wake   chan struct{} // buffered 1: something changed
}

// Subscribe collects the events of the given names, all when none is given,
// from now on. Close it after use.
func (c *Client) Subscribe(names ...string) *Subscription {
	s := &Subscription{client: c, names: slices.Clone(names), wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs[s] = struct{}{}
	if c.err != nil {
		s.closed = true
	}
	return s
}

// Next returns the next event, waiting for it. After the end of the connection
// it returns what is left and then the connection's error.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		s.mu.Lock()
		if len(s.queue) > 0 {
			e := s.queue[0]
			s.queue = s.queue[1:]
			s.mu.Unlock()
			return e, nil
		}
		closed := s.closed
		s.mu.Unlock()
		if closed {
			if err := s.client.Err(); err != nil {
				return Event{}, err
			}
			return Event{}, ErrClosed
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// Lost returns how many events were dropped because nobody read them.
func (s *Subscription) Lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Close ends the subscription; a waiting Next returns ErrClosed.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	delete(s.client.subs, s)
	s.client.mu.Unlock()
	s.end()
}

func (s *Subscription) end() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
}

func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Subscription) put(e Event) {
	if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
		return
	}
	s.mu.Lock()
	if len(s.queue) == maxQueued {
		s.queue = s.queue[1:]
		s.lost++
	}
	s.queue = append(s.queue, e)
	s.mu.Unlock()
	s.signal()
}

func (c *Client) subscriptions() []*Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	subs := make([]*Subscription, 0, len(c.subs))
	for s := range c.subs {
		subs = append(subs, s)
	}
	return subs
}

func (c *Client) publish(e Event) {
	for _, s := range c.subscriptions() {
		s.put(e)
	}
}

func (c *Client) endSubscriptions() {
	for _, s := range c.subscriptions() {
		s.end()
	}
}

// wanted reports whether a subscription takes events of a name.
func (c *Client) wanted(name []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		if len(s.names) == 0 {
			return true
		}
		for _, n := range s.names {
			if n == string(name) {
				return true
			}
		}
	}
	return false
}
