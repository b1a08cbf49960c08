package store

import (
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// Site is a place that runs machines, with what its gateway said last.
type Site struct {
	ID           dr.SiteID         `json:"id"`
	Description  string            `json:"description,omitempty"`
	Networks     []site.Network    `json:"networks,omitempty"`
	FreeBytes    int64             `json:"freeBytes"`
	TotalBytes   int64             `json:"totalBytes"`
	Capabilities site.Capabilities `json:"capabilities"`
}

// Gateway is a data-plane process.
type Gateway struct {
	ID       dr.GatewayID `json:"id"`
	Site     dr.SiteID    `json:"site"`
	State    string       `json:"state"` // announced, enrolled, revoked
	DataAddr string       `json:"dataAddr,omitempty"`
	// Roles as the gateway told them; none: it has told nothing yet.
	Roles           []control.Role `json:"roles,omitempty"`
	CertificateEnds time.Time      `json:"certificateEnds,omitzero"`
	// CertificateSum is the SHA-256 of the one certificate that is valid.
	CertificateSum string `json:"certificateSum,omitempty"`
}

// Machine is a machine as its gateway reported it.
type Machine struct {
	site.Machine
	Site dr.SiteID `json:"site"`
	// Gateway is the one that lists the machine.
	Gateway dr.GatewayID `json:"gateway"`
	SeenAt  time.Time    `json:"seenAt,omitzero"`
}

// Agent is what is known of a machine's agent.
type Agent struct {
	Machine dr.MachineName `json:"machine"`
	rest.Agent
	CertificateSum string `json:"certificateSum,omitempty"`
}

// InsertSite adds a site; ErrExists when the name is taken.
func (t *Tx) InsertSite(s Site) error {
	doc, err := docOf(s)
	if err != nil {
		return err
	}
	n, err := t.exec("INSERT INTO sites(id, doc) VALUES(?, ?) ON CONFLICT DO NOTHING", s.ID, doc)
	return inserted(n, err)
}

func inserted(n int64, err error) error {
	if err == nil && n == 0 {
		return ErrExists
	}
	return err
}

// PutSite replaces a site.
func (t *Tx) PutSite(s Site) error {
	doc, err := docOf(s)
	if err != nil {
		return err
	}
	return t.must1(t.exec("UPDATE sites SET doc = ? WHERE id = ?", doc, s.ID))
}

// Site reads a site.
func (t *Tx) Site(id dr.SiteID) (Site, error) {
	if t.loaded != nil {
		return found(t.loaded.sites, id)
	}
	return readDoc[Site](t, "SELECT doc FROM sites WHERE id = ?", id)
}

// Sites lists sites by name.
func (t *Tx) Sites() ([]Site, error) { return readDocs[Site](t, "SELECT doc FROM sites ORDER BY id") }

// DeleteSite removes a site and what was known of its machines. Gateways or
// groups that name it make it fail.
func (t *Tx) DeleteSite(id dr.SiteID) error {
	if _, err := t.exec("DELETE FROM machines WHERE site = ?", id); err != nil {
		return err
	}
	return t.must1(t.exec("DELETE FROM sites WHERE id = ?", id))
}

// PutGateway adds or replaces a gateway.
func (t *Tx) PutGateway(g Gateway) error {
	doc, err := docOf(g)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO gateways(id, site, doc) VALUES(?, ?, ?) ON CONFLICT(id) DO UPDATE SET doc = excluded.doc, site = excluded.site", g.ID, g.Site, doc)
	return err
}

// Gateway reads a gateway.
func (t *Tx) Gateway(id dr.GatewayID) (Gateway, error) {
	return readDoc[Gateway](t, "SELECT doc FROM gateways WHERE id = ?", id)
}

// Gateways lists gateways by name, of one site when it is not empty.
func (t *Tx) Gateways(siteID dr.SiteID) ([]Gateway, error) {
	return readDocs[Gateway](t, "SELECT doc FROM gateways WHERE ? = '' OR site = ? ORDER BY id", siteID, siteID)
}

// PutEnrollment keeps the hash of a passphrase, in place of an earlier one.
func (t *Tx) PutEnrollment(role, name, passphrase string, expires time.Time) error {
	sum := sha256.Sum256([]byte(passphrase))
	_, err := t.exec("INSERT INTO enrollments(role, name, hash, expires) VALUES(?, ?, ?, ?) ON CONFLICT(role, name) DO UPDATE SET hash = excluded.hash, expires = excluded.expires, holder = NULL, attempts = 0", role, name, sum[:], stamp(expires))
	return err
}

// TakeEnrollment gives a passphrase to the one certificate request that uses it.
// It reports whether it was right and in time, and whether no other request had
// it; the same request may come again, from a holder that died before it had
// kept the answer. A wrong one stays usable by whoever has the right one.
func (t *Tx) TakeEnrollment(role, name, passphrase, csr string, now time.Time) (bool, error) {
	var hash, holder []byte
	var expires string
	err := t.tx.QueryRowContext(t.ctx, "SELECT hash, expires, holder FROM enrollments WHERE role = ? AND name = ?", role, name).Scan(&hash, &expires, &holder)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read enrolment: %w", err)
	}
	sum := sha256.Sum256([]byte(passphrase))
	if subtle.ConstantTimeCompare(sum[:], hash) != 1 || expires < stamp(now) {
		return false, nil
	}
	mine := sha256.Sum256([]byte(csr))
	if holder != nil {
		return subtle.ConstantTimeCompare(mine[:], holder) == 1, nil
	}
	_, err = t.exec("UPDATE enrollments SET holder = ? WHERE role = ? AND name = ?", mine[:], role, name)
	return err == nil, err
}

// PutMachine adds or replaces a machine.
func (t *Tx) PutMachine(m Machine) error {
	doc, err := docOf(m)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO machines(site, name, doc) VALUES(?, ?, ?) ON CONFLICT(site, name) DO UPDATE SET doc = excluded.doc", m.Site, m.Definition.Name, doc)
	return err
}

// DeleteMachine forgets a machine.
func (t *Tx) DeleteMachine(siteID dr.SiteID, name dr.MachineName) error {
	_, err := t.exec("DELETE FROM machines WHERE site = ? AND name = ?", siteID, name)
	return err
}

// Machine reads a machine of a site.
func (t *Tx) Machine(siteID dr.SiteID, name dr.MachineName) (Machine, error) {
	if t.loaded != nil {
		return found(t.loaded.machines, machineKey{siteID, name})
	}
	return readDoc[Machine](t, "SELECT doc FROM machines WHERE site = ? AND name = ?", siteID, name)
}

// Machines lists machines, of one site when it is not empty.
func (t *Tx) Machines(siteID dr.SiteID) ([]Machine, error) {
	if t.loaded != nil {
		return t.loaded.machinesAt(siteID), nil
	}
	return readDocs[Machine](t, "SELECT doc FROM machines WHERE ? = '' OR site = ? ORDER BY name, site", siteID, siteID)
}

// InsertPolicy adds a policy; ErrExists when the name is taken.
func (t *Tx) InsertPolicy(p rest.Policy) error {
	doc, err := docOf(p)
	if err != nil {
		return err
	}
	n, err := t.exec("INSERT INTO policies(id, doc) VALUES(?, ?) ON CONFLICT DO NOTHING", p.ID, doc)
	return inserted(n, err)
}

// PutPolicy adds or replaces a policy.
func (t *Tx) PutPolicy(p rest.Policy) error {
	doc, err := docOf(p)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO policies(id, doc) VALUES(?, ?) ON CONFLICT(id) DO UPDATE SET doc = excluded.doc", p.ID, doc)
	return err
}

// Policy reads a policy.
func (t *Tx) Policy(id dr.PolicyID) (rest.Policy, error) {
	if t.loaded != nil {
		return found(t.loaded.policies, id)
	}
	return readDoc[rest.Policy](t, "SELECT doc FROM policies WHERE id = ?", id)
}

// Policies lists policies by name.
func (t *Tx) Policies() ([]rest.Policy, error) {
	return readDocs[rest.Policy](t, "SELECT doc FROM policies ORDER BY id")
}

// DeletePolicy removes a policy; groups that use it make it fail.
func (t *Tx) DeletePolicy(id dr.PolicyID) error {
	return t.must1(t.exec("DELETE FROM policies WHERE id = ?", id))
}

// PutAgent adds or replaces an agent.
func (t *Tx) PutAgent(a Agent) error {
	doc, err := docOf(a)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO agents(machine, doc) VALUES(?, ?) ON CONFLICT(machine) DO UPDATE SET doc = excluded.doc", a.Machine, doc)
	return err
}

// Agent reads a machine's agent.
func (t *Tx) Agent(m dr.MachineName) (Agent, error) {
	if t.loaded != nil {
		return found(t.loaded.agents, m)
	}
	return readDoc[Agent](t, "SELECT doc FROM agents WHERE machine = ?", m)
}

// Agents lists all agents.
func (t *Tx) Agents() ([]Agent, error) {
	return readDocs[Agent](t, "SELECT doc FROM agents ORDER BY machine")
}
