package vaultkill

import (
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/link"
	"rebound/internal/problem"
)

// dial asks the cloud's data port as the home gateway's certificate of now.
func (l *lab) dial(b identity.Bundle) (*link.CompareConn, error) {
	l.t.Helper()
	conf, err := b.ClientTLS(identity.RoleGateway, string(l.cloud.name))
	l.must(err)
	g, err := l.c.Gateway(l.t.Context(), l.cloud.name)
	l.must(err)
	var disks []dr.GroupDisk
	for _, m := range members {
		disks = append(disks, dr.GroupDisk{Machine: m, Disk: "disk0", SizeBytes: 1 << 20})
	}
	return link.DialCompare(l.t.Context(), link.DialConfig{
		Address: g.DataAddr, TLS: conf, Hello: link.Hello{Group: app, Generation: 1, Disks: disks, Gateway: l.home.name},
	})
}

// TestCertificatesRotate: certificates of eight seconds. Gateways renew theirs by
// themselves; the stream goes on in its epoch over connections with the new
// ones, long after the first have ended.
func TestCertificatesRotate(t *testing.T) {
	t.Parallel()
	const life = 8 * time.Second
	l := newLab(t, life)
	l.protect()
	begin := time.Now()
	first, err := l.group()
	l.must(err)
	l.until("a second and a third certificate", func() bool {
		for _, s := range []*place{l.home, l.cloud} {
			if g, err := l.c.Gateway(t.Context(), s.name); err != nil || g.CertificateEnds.Before(begin.Add(2*life)) {
				return false
			}
		}
		return true
	})
	l.until("the first certificates have ended", func() bool { return time.Since(begin) > life })
	l.home.do(order{Do: "write", Machine: "web", Byte: 77})
	now := first.RPO.Confirmed
	l.until("writes arrive", func() bool {
		g, err := l.group()
		now = g.RPO.Confirmed
		return err == nil && g.State == lifecycle.Protected && now.Seq > first.RPO.Confirmed.Seq+1
	})
	if now.Generation != first.RPO.Confirmed.Generation || now.Epoch != first.RPO.Confirmed.Epoch {
		t.Errorf("the stream broke: %s, then %s", first.RPO.Confirmed, now)
	}
}

// TestRevocationAtOnce: when the answer to a revocation is there, the other
// gateway accepts the certificate no more, and has ended what it had open.
func TestRevocationAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t, 0)
	l.protect()
	stolen, err := identity.LoadBundle(filepath.Join(l.home.dir, "identity"))
	l.must(err)
	open, err := l.dial(stolen)
	l.must(err)
	defer open.Close()
	if err := open.Err(); err != nil {
		t.Fatal(err)
	}
	_, err = l.c.RevokeGateway(t.Context(), l.home.name)
	l.must(err)
	if conn, err := l.dial(stolen); err == nil {
		conn.Close()
		t.Error("the data port accepts the revoked certificate")
	} else if p := problem.From(err); p.Code != problem.WrongVault && p.Code != problem.NotAuthenticated {
		t.Errorf("refused with %v", err)
	}
	l.until("the connection that stood has ended", func() bool { return open.Err() != nil })
	// It lasts: the gateway keeps what was revoked.
	l.cloud.do(order{Do: "stop"})
	l.cloud.do(order{Do: "start"})
	if conn, err := l.dial(stolen); err == nil {
		conn.Close()
		t.Error("after its restart the data port accepts the revoked certificate")
	}
	l.until("the vault lists it as revoked", func() bool {
		g, err := l.c.Gateway(t.Context(), l.home.name)
		return err == nil && g.State == "revoked" && !g.Connected
	})
}
