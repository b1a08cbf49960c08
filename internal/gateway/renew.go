package gateway

import (
	"context"

	"rebound/internal/control"
)

// runRenewals keeps the gateway's certificate renewed, and the captures up to
// date with it and with what was revoked.
func (g *Gateway) runRenewals(ctx context.Context) error {
	g.renewing.Go(func() {
		if err := control.KeepRenewed(ctx, g.cfg.VaultAddr, g.cfg.Identity, g.log); err != nil && ctx.Err() == nil {
			g.log.Error("renew certificate", "error", err)
		}
	})
	defer g.renewing.Wait()
	for {
		changed := g.cfg.Identity.Changed()
		for _, s := range g.allSources() {
			s.Renewed()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
