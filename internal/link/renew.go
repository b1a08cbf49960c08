package link

import (
	"bytes"
	"crypto/tls"
	"time"

	"rebound/internal/identity"
	"rebound/internal/problem"
)

// watchIdentity ends the stream when our certificate was renewed, so that the
// next connection shows the new one, or when the standby's was revoked.
func (s *Stream) watchIdentity(h *identity.Holder, shown []byte, peer tls.ConnectionState) {
	for {
		changed := h.Changed()
		if err := h.Refuses(peer, time.Now()); err != nil {
			s.fail(err)
			return
		}
		if !bytes.Equal(h.Bundle().Cert, shown) {
			s.fail(problem.New(problem.GatewayUnreachable, "our certificate was renewed: the stream goes on over another connection"))
			return
		}
		select {
		case <-changed:
		case <-s.done:
			return
		}
	}
}
