package link

import (
	"context"
	"crypto/tls"
	"time"

	"rebound/internal/problem"
)

// Recheck ends every connection that ServerConfig.Refuses is against by now,
// and returns when nothing of theirs is taken any more.
func (s *Server) Recheck() {
	now := s.cfg.Now()
	var ending []*lease
	s.mu.Lock()
	for _, g := range s.groups {
		for _, l := range g.leases {
			if err := s.cfg.Refuses(l.peer, now); err != nil {
				l.cancel(err)
				ending = append(ending, l)
			}
		}
	}
	s.mu.Unlock()
	for _, l := range ending {
		<-l.done
	}
}

// endWithCertificate ends a connection when its peer's certificate ends; the
// peer connects again with a renewed one, or is refused. The result disarms it.
func (s *Server) endWithCertificate(peer tls.ConnectionState, cancel context.CancelCauseFunc) (disarm func()) {
	if len(peer.PeerCertificates) == 0 {
		return func() {}
	}
	left := peer.PeerCertificates[0].NotAfter.Sub(s.cfg.Now())
	t := time.AfterFunc(left, func() {
		cancel(problem.New(problem.GatewayUnreachable, "the certificate of the connection has ended"))
	})
	return func() { t.Stop() }
}
