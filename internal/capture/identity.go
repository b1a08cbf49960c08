package capture

import (
	"bytes"
	"fmt"
	"time"

	"rebound/internal/identity"
)

// takeIdentity goes over to the identity and the revocations of a
// configuration. Streams that stand notice by themselves and connect anew.
func (g *group) takeIdentity(cfg *GroupConfig) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder == nil {
		h, err := identity.NewHolder(cfg.Identity)
		if err != nil {
			return fmt.Errorf("use identity: %w", err)
		}
		g.holder = h
	} else if !bytes.Equal(g.holder.Bundle().Cert, cfg.Identity.Cert) {
		if err := g.holder.Replace(cfg.Identity); err != nil {
			return fmt.Errorf("use identity: %w", err)
		}
	}
	_, err := g.holder.Revoke(cfg.Revoked, time.Now())
	return err
}
