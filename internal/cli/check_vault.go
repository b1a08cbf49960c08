package cli

import (
	"context"
	"fmt"
	"net"
	"time"

	"rebound/internal/vault/client"
	"rebound/internal/vault/health"
	"rebound/internal/vault/live"
	"rebound/internal/vault/rest"
)

// vaultWithin bounds each question to the vault and each connection.
const vaultWithin = 5 * time.Second

// vault asks the vault, when one is known, about its clock and gateways.
func (c *checker) vault(ctx context.Context) {
	const name = "vault"
	p, err := c.a.access()
	if err != nil {
		c.add(checkFail, name, "", "%v", err)
		return
	}
	if p.Vault == "" {
		c.add(checkSkip, name, "", "log in, or give --vault and --token, to check its clock and the gateways")
		return
	}
	cl, err := p.client()
	if err != nil {
		c.add(checkFail, name, "Log in with 'rebound login'.", "%v", err)
		return
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 4*vaultWithin)
	defer cancel()
	// The first request also shakes hands; the clock is read with the second.
	if _, err := cl.Status(ctx); err != nil {
		c.add(checkFail, name, "Check the address, the certificate and the token; 'rebound login' stores all three.", "%v", err)
		return
	}
	sent := time.Now()
	st, err := cl.Status(ctx)
	if err != nil {
		c.add(checkFail, name, "", "%v", err)
		return
	}
	c.add(checkOK, name, "", "%s answers at %s, version %s", st.Vault, p.Vault, st.Version)
	c.clock(st.Time, sent, time.Now())
	c.gateways(ctx, cl)
	c.sites(ctx, cl)
}

// clock compares the vault's clock with the middle of the request.
func (c *checker) clock(vault, sent, got time.Time) {
	way := got.Sub(sent)
	off := vault.Sub(sent.Add(way / 2))
	side := "ahead of"
	if off < 0 {
		side = "behind"
	}
	text := fmt.Sprintf("the vault's is %s %s this host's, give or take %s", seconds(off.Abs().Seconds()), side, seconds(way.Seconds()/2))
	c.skew("clock", off, text)
}

func (c *checker) skew(name string, off time.Duration, text string) {
	const remedy = "Let both hosts take their time from the same NTP server."
	switch {
	case off.Abs() > live.SkewRefuse:
		c.add(checkFail, name, remedy, "%s: more than %v, protection would be refused", text, live.SkewRefuse)
	case off.Abs() > health.SkewWarning:
		c.add(checkWarn, name, remedy, "%s: more than %v", text, health.SkewWarning)
	default:
		c.add(checkOK, name, "", "%s", text)
	}
}

// gateways: are they there, is their clock right, can their data port be
// reached from here?
func (c *checker) gateways(ctx context.Context, cl *client.Client) {
	list, err := cl.Gateways(ctx)
	if err != nil {
		c.add(checkFail, "gateways", "", "%v", err)
		return
	}
	if len(list) == 0 {
		c.add(checkWarn, "gateways", "Announce one for each site with 'rebound gateway enroll'.", "the vault knows none")
	}
	for _, g := range list {
		name := "gateway " + string(g.ID)
		switch {
		case g.State == "revoked":
			continue
		case !g.Connected:
			c.add(checkFail, name, "Start it with 'rebound gateway serve' and look at its log.", "%s, not connected to the vault", g.State)
			continue
		}
		c.skew(name+" clock", time.Duration(g.ClockOffsetSeconds*float64(time.Second)), fmt.Sprintf("%s from the vault's", clockText(g.ClockOffsetSeconds)))
		c.reach(ctx, name, g)
	}
}

func (c *checker) reach(ctx context.Context, name string, g rest.Gateway) {
	if g.DataAddr == "" {
		c.add(checkWarn, name, "Wait a few seconds and check again.", "connected, but has not told its data address yet")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, vaultWithin)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.DataAddr)
	if err != nil {
		c.add(checkFail, name, "Open the port, or give the gateway a --data-addr that others can reach.", "its data address cannot be reached from here: %v", err)
		return
	}
	_ = conn.Close() // nothing was sent
	c.add(checkOK, name, "", "connected; its data address %s can be reached from here", g.DataAddr)
}

// sites compares the room of each site with the journal that the churn asks for.
func (c *checker) sites(ctx context.Context, cl *client.Client) {
	list, err := cl.Sites(ctx)
	if err != nil {
		c.add(checkFail, "sites", "", "%v", err)
		return
	}
	for _, s := range list {
		name := "site " + string(s.ID)
		switch {
		case s.TotalBytes == 0:
			c.add(checkSkip, name, "", "no gateway has told its room yet")
		case c.rep.Churn != nil && s.FreeBytes < c.rep.Churn.JournalBytes:
			c.add(checkWarn, name, "Make room there before you protect the machine to it, or choose a shorter redo window.", "%s free, less than the journal of %s", size(s.FreeBytes), size(c.rep.Churn.JournalBytes))
		default:
			c.add(checkOK, name, "", "%s free of %s", size(s.FreeBytes), size(s.TotalBytes))
		}
	}
}
