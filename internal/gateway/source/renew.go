package source

import (
	"context"
	"fmt"
)

// renew hands the present identity and revocations to the capture, after
// Renewed. The stream goes on: capture connects anew within the epoch.
func (a *attempt) renew(ctx context.Context) error {
	if !a.r.renewed.Swap(false) {
		return nil
	}
	if err := a.cl.Configure(ctx, a.groupConfig()); err != nil {
		a.r.renewed.Store(true) // again with the next tick
		return a.tolerate(ctx, "renew the identity", fmt.Errorf("configure capture: %w", err))
	}
	return nil
}
