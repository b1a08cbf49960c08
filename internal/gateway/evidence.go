package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// guestTimeout is how long a guest agent may take to answer.
const guestTimeout = 3 * time.Second

// guestAsker is the part of a driver that asks a guest through its agent.
type guestAsker interface {
	Frozen(ctx context.Context, name dr.MachineName) (bool, error)
}

// MachineEvidence looks whether a machine runs its guest: its power, whether
// its guest agent answers, and the user's probes, all at the same time.
func (g *Gateway) MachineEvidence(ctx context.Context, r control.EvidenceRequest) (control.Evidence, error) {
	m, err := g.driver.Machine(ctx, r.Machine)
	if err != nil {
		return control.Evidence{}, fmt.Errorf("look at machine %s: %w", r.Machine, err)
	}
	for _, p := range r.Probes {
		if err := p.Validate(); err != nil {
			return control.Evidence{}, problem.Wrap(err, problem.InvalidRequest, "probe of %s", r.Machine)
		}
	}
	out := control.Evidence{State: m.State, BootedAt: m.BootedAt}
	failed := make([]error, len(r.Probes))
	var wg sync.WaitGroup
	wg.Go(func() { out.GuestAgent, out.GuestAgentSays = g.askGuest(ctx, r.Machine, m.State) })
	for i, p := range r.Probes {
		wg.Go(func() { failed[i] = g.runProbe(ctx, p.For(r.Machine)) })
	}
	wg.Wait()
	for i, p := range r.Probes {
		text := p.For(r.Machine).String()
		if failed[i] != nil {
			out.Failed = append(out.Failed, fmt.Sprintf("%s: %v", text, failed[i]))
		} else {
			out.Passed = append(out.Passed, text)
		}
	}
	return out, nil
}

// askGuest reports whether the guest answers through its agent, or why not.
func (g *Gateway) askGuest(ctx context.Context, name dr.MachineName, state site.PowerState) (answers bool, why string) {
	asker, ok := g.driver.(guestAsker)
	if !ok {
		return false, "the site has no channel to a guest agent"
	}
	if state != site.Running {
		return false, fmt.Sprintf("the machine is %s", state)
	}
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	if _, err := asker.Frozen(ctx, name); err != nil {
		return false, problem.Under(problem.GuestNotFrozen, err)
	}
	return true, ""
}

// runProbe runs one probe from this host.
func (g *Gateway) runProbe(ctx context.Context, p dr.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout())
	defer cancel()
	switch {
	case p.TCP != "":
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", p.TCP)
		if err != nil {
			return err
		}
		return conn.Close()
	case p.HTTP != "":
		return probeHTTP(ctx, p.HTTP)
	}
	return g.probeCommand(ctx, p)
}

// probeHTTP demands an answer below 400, of any content. A redirection is
// followed: it shows that somebody serves.
func probeHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}
