package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/statefile"
	"rebound/internal/identity"
	"rebound/internal/problem"
)

// Enrolment is what a gateway keeps of its enrolment, besides its certificate.
type Enrolment struct {
	Name      dr.GatewayID `json:"name"`
	Site      dr.SiteID    `json:"site"`
	VaultAddr string       `json:"vaultAddr"`
}

func identityDir(dir string) string   { return filepath.Join(dir, "identity") }
func enrolmentPath(dir string) string { return filepath.Join(dir, "enrolment.json") }

// LoadEnrolment reads who the gateway of a directory is; ok is false when it
// has not enrolled.
func LoadEnrolment(dir string) (e Enrolment, h *identity.Holder, ok bool, err error) {
	ok, err = statefile.Load(enrolmentPath(dir), &e)
	if err != nil || !ok {
		return e, nil, false, err
	}
	h, err = identity.OpenHolder(identityDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil, false, nil
	}
	return e, h, err == nil, err
}

// Enroll asks the vault for a certificate with a one-time passphrase and keeps
// it in dir. caPEM is the vault's certificate, from whoever announced the
// gateway.
func Enroll(ctx context.Context, dir string, e Enrolment, passphrase string, caPEM []byte) error {
	if err := os.MkdirAll(identityDir(dir), 0o700); err != nil {
		return fmt.Errorf("make gateway directory: %w", err)
	}
	if passphrase == "" {
		return problem.New(problem.NotAuthenticated, "gateway %s has not enrolled and no passphrase was given", e.Name)
	}
	cfg, err := identity.PinnedTLS(caPEM)
	if err != nil {
		return problem.Wrap(err, problem.InvalidRequest, "the vault's certificate")
	}
	keyPEM, csrPEM, err := identity.PendingRequest(identityDir(dir), string(e.Name))
	if err != nil {
		return err
	}
	res, err := control.Enroll(ctx, e.VaultAddr, cfg, control.EnrollRequest{
		Role: string(identity.RoleGateway), Name: string(e.Name), Passphrase: passphrase, CSR: string(csrPEM),
	})
	if err != nil {
		return err
	}
	if e.Site != "" && res.Site != e.Site {
		return problem.New(problem.InvalidRequest, "gateway %s is of site %s, the vault says %s; announce it for its own site", e.Name, e.Site, res.Site)
	}
	b := identity.Bundle{CA: []byte(res.CA), Cert: []byte(res.Certificate), Key: keyPEM}
	if err := b.Save(identityDir(dir)); err != nil {
		return err
	}
	e.Site = res.Site
	if err := statefile.Save(enrolmentPath(dir), e); err != nil {
		return err
	}
	return identity.ClearPending(identityDir(dir))
}
