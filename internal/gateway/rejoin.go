package gateway

import (
	"context"

	"rebound/internal/problem"
)

// Rejoin gives the gateway of dir, which has enrolled before, to a vault: to
// another one than before when that was lost. The gateway keeps everything
// else: its name, its site, journals, sources and settings. It takes effect
// with the gateway's next start; a running one goes on as it was.
func Rejoin(ctx context.Context, dir, vaultAddr, passphrase string, caPEM []byte) (Enrolment, error) {
	old, _, ok, err := LoadEnrolment(dir)
	if err != nil {
		return old, err
	}
	if !ok {
		return old, problem.New(problem.InvalidRequest, "the gateway in %s has not enrolled; start it with 'rebound gateway serve'", dir)
	}
	next := Enrolment{Name: old.Name, Site: old.Site, VaultAddr: vaultAddr}
	return next, Enroll(ctx, dir, next, passphrase, caPEM)
}
