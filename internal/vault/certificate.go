package vault

import (
	"context"
	"log/slog"
	"time"

	"rebound/internal/identity"
)

// keepServing renews the vault's own certificate after two thirds of its life,
// until ctx ends.
func keepServing(ctx context.Context, h *identity.Holder, issue func() (identity.Bundle, error), log *slog.Logger) {
	for {
		timer := time.NewTimer(max(time.Second, time.Until(h.RenewAt())))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		next, err := issue()
		if err == nil {
			err = h.Replace(next)
		}
		if err != nil {
			log.Error("renew the vault's certificate", "error", err)
			continue
		}
		log.Info("the vault's certificate was renewed", "renewAgain", h.RenewAt())
	}
}
