package control

import (
	"context"
	"encoding/json"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
)

// KeeperCommands are about what outlives a vault.
type KeeperCommands interface {
	// Holdings lists what the gateway keeps of each group: enough to
	// rebuild the inventory of a vault that was lost, and to mend that of
	// one that was restored from a backup.
	Holdings(ctx context.Context) (Holdings, error)
	// SetRevoked tells which certificates are not to be accepted any more;
	// connections that show one end before it returns. The answer to each
	// report says the same to those that this does not reach.
	SetRevoked(ctx context.Context, list []identity.Revocation) error
}

// Holdings is what a gateway keeps.
type Holdings struct {
	Gateway dr.GatewayID `json:"gateway"`
	Site    dr.SiteID    `json:"site"`
	Groups  []Holding    `json:"groups"`
	// Lease is the newest lease that the gateway has seen.
	Lease uint64 `json:"lease,omitempty"`
	// Revoked are the revocations that the gateway knows.
	Revoked []identity.Revocation `json:"revoked,omitempty"`
}

// Holding is what a gateway keeps of one group in one of its two roles.
type Holding struct {
	Group dr.GroupID `json:"group"`
	// Generation is the newest that the gateway knows of the group.
	Generation dr.Generation `json:"generation"`
	// Source is set where the gateway is (or was) the group's source,
	// Standby where it keeps the group's journal.
	Source  *SourceHolding  `json:"source,omitempty"`
	Standby *StandbyHolding `json:"standby,omitempty"`
	// Problem says why the group's files cannot be used.
	Problem string `json:"problem,omitempty"`
}

// SourceHolding is a group at its source.
type SourceHolding struct {
	Spec   ReplicationSpec `json:"spec"`
	Paused bool            `json:"paused,omitempty"`
	Fenced bool            `json:"fenced,omitempty"`
	// Stopped: the stream was ended in order (drained or forgotten) and was
	// not started since.
	Stopped bool `json:"stopped,omitempty"`
}

// StandbyHolding is a group at its standby.
type StandbyHolding struct {
	Request CreateJournalRequest `json:"request"`
	Seeded  bool                 `json:"seeded,omitempty"`
	// Committing and Committed: the recovered machines were made, or are
	// being made, independent of the journal at Commit.
	Committing bool        `json:"committing,omitempty"`
	Committed  bool        `json:"committed,omitempty"`
	Commit     dr.Position `json:"commit,omitzero"`
	// Points is how many recovery points there are.
	Points int `json:"points"`
	// Recovered are the machines that run on the journal.
	Recovered []RecoveredHolding `json:"recovered,omitempty"`
}

// RecoveredHolding is a machine that runs on a journal.
type RecoveredHolding struct {
	Machine  dr.MachineName `json:"machine"`
	Test     bool           `json:"test,omitempty"`
	Position dr.Position    `json:"position"`
	Network  string         `json:"network,omitempty"`
	Started  time.Time      `json:"started,omitzero"`
}

// Keep is what the vault knows of a group and its gateways keep for it without
// reading it: the vault's own rows, as JSON. It is the same in
// ReplicationSpec and CreateJournalRequest; the newer one counts.
type Keep = json.RawMessage

// RenewRequest asks, over a connection with the certificate that is to be
// renewed, for the next one. CSR is PEM.
type RenewRequest struct {
	CSR string `json:"csr"`
}
