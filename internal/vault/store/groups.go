package store

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// Group is a replication group with its items.
type Group struct {
	ID       dr.GroupID  `json:"id"`
	Policy   dr.PolicyID `json:"policy"`
	Home     dr.SiteID   `json:"home"`
	Recovery dr.SiteID   `json:"recovery"`
	// Direction is the way the writes flow, or flowed until a failover
	// that is not committed.
	Direction dr.Direction `json:"direction"`
	// Active is the site whose machines are the true ones. It leaves the
	// source's site when a failover raises the generation.
	Active          dr.SiteID           `json:"active"`
	Generation      dr.Generation       `json:"generation"`
	State           lifecycle.State     `json:"state"`
	Test            lifecycle.TestState `json:"test,omitempty"`
	HomeGateway     dr.GatewayID        `json:"homeGateway"`
	RecoveryGateway dr.GatewayID        `json:"recoveryGateway"`
	Members         []Member            `json:"members"`
	Disks           []dr.GroupDisk      `json:"disks"`
	// Seeded: the standby's disks were there before the group; they are
	// not ours to delete.
	Seeded bool `json:"seeded,omitempty"`
	// Running is the job at work, From the state it began in, Beyond that
	// it passed its point of no return.
	Running dr.JobID        `json:"running,omitempty"`
	From    lifecycle.State `json:"from,omitempty"`
	Beyond  bool            `json:"beyond,omitempty"`
	LastJob dr.JobID        `json:"lastJob,omitempty"`
	// Unconfirmed says why the row may be out of date: nothing is done with
	// the group, and its gateways are told nothing, until they were asked.
	Unconfirmed string `json:"unconfirmed,omitempty"`
	// Recovered is the moment in use from a failover to its commit or undo.
	Recovered *rest.Recovered `json:"recovered,omitempty"`
	// Verified is the last comparison with the source in this direction.
	Verified *rest.Verification `json:"verified,omitempty"`
	// TestAt is the moment of a test failover.
	TestAt    *rest.Recovered `json:"testAt,omitempty"`
	Created   time.Time       `json:"created"`
	ChangedAt time.Time       `json:"changedAt"`
}

// Member is one machine of a group.
type Member struct {
	Item    dr.ItemID      `json:"item"`
	Machine dr.MachineName `json:"machine"`
	// Started: runs from the journal since StartedAt; BootBefore is the
	// agent's boot id before that; Booted: proven to have booted.
	Started    bool      `json:"started,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	BootBefore string    `json:"bootBefore,omitempty"`
	Booted     bool      `json:"booted,omitempty"`
}

// Source is the gateway that writes flow from.
func (g *Group) Source() dr.GatewayID {
	if g.Direction == dr.Back {
		return g.RecoveryGateway
	}
	return g.HomeGateway
}

// Standby is the gateway that keeps the journal.
func (g *Group) Standby() dr.GatewayID {
	if g.Direction == dr.Back {
		return g.HomeGateway
	}
	return g.RecoveryGateway
}

// SourceSite is the site that writes flow from.
func (g *Group) SourceSite() dr.SiteID {
	if g.Direction == dr.Back {
		return g.Recovery
	}
	return g.Home
}

// StandbySite is the site of the journal.
func (g *Group) StandbySite() dr.SiteID {
	if g.Direction == dr.Back {
		return g.Home
	}
	return g.Recovery
}

// Machines returns the members' names, in the group's order.
func (g *Group) Machines() []dr.MachineName {
	names := make([]dr.MachineName, len(g.Members))
	for i, m := range g.Members {
		names[i] = m.Machine
	}
	return names
}

// Items returns the members' item ids.
func (g *Group) Items() []dr.ItemID {
	ids := make([]dr.ItemID, len(g.Members))
	for i, m := range g.Members {
		ids[i] = m.Item
	}
	return ids
}

// InsertGroup adds a group and its items. Its generation becomes one more than
// any that a group of this name ever had. ErrExists when the group's or an
// item's name is taken.
func (t *Tx) InsertGroup(g *Group) error {
	var before int64
	err := t.tx.QueryRowContext(t.ctx, "SELECT generation FROM generations WHERE grp = ?", g.ID).Scan(&before)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read generation: %w", err)
	}
	g.Generation = dr.Generation(before) + 1
	doc, err := docOf(g)
	if err != nil {
		return err
	}
	n, err := t.exec("INSERT INTO groups(id, policy, home, recovery, generation, doc) VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", g.ID, g.Policy, g.Home, g.Recovery, int64(g.Generation), doc)
	if err := inserted(n, err); err != nil {
		return err
	}
	for _, m := range g.Members {
		n, err := t.exec("INSERT INTO items(id, grp, machine) VALUES(?, ?, ?) ON CONFLICT DO NOTHING", m.Item, g.ID, m.Machine)
		if err := inserted(n, err); err != nil {
			return err
		}
	}
	return t.keepGeneration(g)
}

func (t *Tx) keepGeneration(g *Group) error {
	_, err := t.exec("INSERT INTO generations(grp, generation) VALUES(?, ?) ON CONFLICT(grp) DO UPDATE SET generation = max(generation, excluded.generation)", g.ID, int64(g.Generation))
	return err
}

// PutGroup replaces a group. A generation below the stored one is refused: it
// is the fencing token.
func (t *Tx) PutGroup(g *Group) error {
	doc, err := docOf(g)
	if err != nil {
		return err
	}
	n, err := t.exec("UPDATE groups SET doc = ?, policy = ?, generation = ? WHERE id = ? AND generation <= ?", doc, g.Policy, int64(g.Generation), g.ID, int64(g.Generation))
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("group %s is gone or has a newer generation than %d", g.ID, g.Generation)
	}
	return t.keepGeneration(g)
}

// ChangeGroup reads a group, lets f change it, and writes it back.
func (t *Tx) ChangeGroup(id dr.GroupID, f func(*Group) error) error {
	g, err := t.Group(id)
	if err != nil {
		return err
	}
	if err := f(&g); err != nil {
		return err
	}
	return t.PutGroup(&g)
}

// DeleteGroup removes a group and its items.
func (t *Tx) DeleteGroup(id dr.GroupID) error {
	_, err := t.exec("DELETE FROM groups WHERE id = ?", id)
	return err
}

// Group reads a group.
func (t *Tx) Group(id dr.GroupID) (Group, error) {
	if t.loaded != nil {
		return found(t.loaded.groups, id)
	}
	return readDoc[Group](t, "SELECT doc FROM groups WHERE id = ?", id)
}

// GroupOfItem reads the group of an item.
func (t *Tx) GroupOfItem(id dr.ItemID) (Group, error) {
	if t.loaded != nil {
		return found(t.loaded.groups, t.loaded.groupOf[id])
	}
	return readDoc[Group](t, "SELECT g.doc FROM groups g JOIN items i ON i.grp = g.id WHERE i.id = ?", id)
}

// Groups lists all groups by name.
func (t *Tx) Groups() ([]Group, error) {
	if t.loaded != nil {
		return t.loaded.allGroups, nil
	}
	return readDocs[Group](t, "SELECT doc FROM groups ORDER BY id")
}

// Snapshot is the last report of a group's standby, kept from time to time so
// that a restarted vault shows the truth before the next report.
type Snapshot struct {
	Report   control.GroupReport `json:"report"`
	Received time.Time           `json:"received"`
	// Offset is the vault's clock minus the source's, in seconds.
	Offset float64 `json:"offset"`
}

// PutSnapshot keeps the last report of a group; a group that is gone is no
// error.
func (t *Tx) PutSnapshot(id dr.GroupID, s Snapshot) error {
	doc, err := docOf(s)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO snapshots(grp, doc) SELECT id, ? FROM groups WHERE id = ? ON CONFLICT(grp) DO UPDATE SET doc = excluded.doc", doc, id)
	return err
}

// Snapshot reads the last kept report of a group.
func (t *Tx) Snapshot(id dr.GroupID) (Snapshot, error) {
	return readDoc[Snapshot](t, "SELECT doc FROM snapshots WHERE grp = ?", id)
}
