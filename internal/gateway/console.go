package gateway

import (
	"context"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

const (
	// consoleFresh is how long a look at a console is shown to others who ask:
	// many who watch cost the machine no more than one.
	consoleFresh = time.Second
	// consoleTimeout bounds one look; the driver's own limits are lower.
	consoleTimeout = 15 * time.Second
)

// consoles keeps the newest look at each machine's console. Its zero value is
// ready.
type consoles struct {
	mu   sync.Mutex
	last map[dr.MachineName]*look
}

// look is one look at a console; view and err are set once done is closed.
type look struct {
	done chan struct{}
	view site.ConsoleView
	err  error
	at   time.Time // when it ended
}

// Console shows what a machine shows.
func (g *Gateway) Console(ctx context.Context, r control.ConsoleRequest) (site.ConsoleView, error) {
	c, ok := g.driver.(site.Console)
	if !ok || !g.driver.Capabilities().Console {
		return site.ConsoleView{}, problem.New(problem.ConsoleUnavailable, "site %s shows no consoles", g.cfg.Site)
	}
	l := g.consoles.join(r.Machine, func() (site.ConsoleView, error) {
		// It serves all who wait, whoever of them leaves.
		ctx, cancel := context.WithTimeout(g.ctx, consoleTimeout)
		defer cancel()
		return c.Console(ctx, r.Machine)
	})
	select {
	case <-l.done:
		return l.view, l.err
	case <-ctx.Done():
		return site.ConsoleView{}, ctx.Err()
	}
}

// join returns the look that is under way or was just taken, or begins one.
func (c *consoles) join(name dr.MachineName, take func() (site.ConsoleView, error)) *look {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.last[name]; l != nil && !l.stale() {
		return l
	}
	if c.last == nil {
		c.last = map[dr.MachineName]*look{}
	}
	for other, l := range c.last { // pictures are large
		if l.stale() {
			delete(c.last, other)
		}
	}
	l := &look{done: make(chan struct{})}
	c.last[name] = l
	go func() {
		l.view, l.err = take()
		l.at = time.Now()
		close(l.done)
	}()
	return l
}

func (l *look) stale() bool {
	select {
	case <-l.done:
		return l.err != nil || time.Since(l.at) > consoleFresh
	default:
		return false
	}
}
