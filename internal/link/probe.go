package link

import (
	"context"
	"errors"

	"rebound/internal/problem"
)

// Probe opens a connection as a stream would, with both ends' certificates, and
// ends it: the path is usable when it returns nil. It needs no group. A refusal
// by what is said proves the path as well, and is nil; one by who says it, or
// by whom it reached, is returned.
func Probe(ctx context.Context, cfg DialConfig) error {
	c, _, err := dial(ctx, &cfg, PurposeProbe)
	if err == nil {
		return c.sock.Close()
	}
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.Problem.Code {
	case problem.WrongVault, problem.NotAuthenticated, problem.PermissionDenied:
		return err
	}
	return nil
}

// serveProbe answers a peer that only wants to know whether it gets here.
func (s *Server) serveProbe(c *conn) error {
	return c.writeJSON(msgWelcome, &Welcome{Version: Version1, StandbyClock: s.cfg.Now().UTC()})
}
