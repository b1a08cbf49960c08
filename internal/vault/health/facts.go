package health

import (
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// Facts are all that the conditions are computed from. Times are of the
// vault's clock unless it says otherwise; a zero time stands for never or not known.
type Facts struct {
	Now      time.Time
	Settings rest.HealthSettings
	Vault    Vault
	Sites    []Site
	Gateways []Gateway
	Groups   []Group
	Webhooks []rest.Webhook
}

// Vault is what is known of the vault itself.
type Vault struct {
	ID string
	// Created is when the vault was made, LastBackup when it was last backed up.
	Created, LastBackup time.Time
	CAEnds              time.Time
	// FreeBytes and TotalBytes of the volume of its directory; zero: not known.
	FreeBytes, TotalBytes int64
}

// Site is a site with gateways.
type Site struct {
	ID       dr.SiteID
	Gateways []dr.GatewayID
}

// Gateway is an enrolled gateway.
type Gateway struct {
	ID   dr.GatewayID
	Site dr.SiteID
	// LastSeen is its last report, also of before the vault's start. Since
	// counts where it has never reported: when it was enrolled, or the
	// vault's start.
	LastSeen, Since time.Time
	Connected       bool
	// Pending: the vault has just started and the gateway may still dial.
	Pending bool
	// Known: it has reported since the vault's start, so that Offset and Host count.
	Known           bool
	Offset          time.Duration
	CertificateEnds time.Time
	Host            control.HostReport
}

// Group is a replication group.
type Group struct {
	ID                      dr.GroupID
	State                   lifecycle.State
	Test                    lifecycle.TestState
	Active                  dr.SiteID
	Home, Recovery          dr.SiteID
	HomeGateway             dr.GatewayID
	RecoveryGateway         dr.GatewayID
	SourceGateway           dr.GatewayID
	StandbyGateway          dr.GatewayID
	SourceSite, StandbySite dr.SiteID
	Running                 dr.JobID
	Created, ChangedAt      time.Time
	CrashInterval           time.Duration
	AppInterval             time.Duration // 0: no such points are wanted
	AgentRequired           bool
	RPO                     rest.RPO
	Source, Standby         *control.GroupReport // nil: not known
	SourceUp, StandbyUp     bool                 // the gateways are heard of
	SourceOffset            time.Duration        // the vault's clock minus the source's
	SyncMoved               time.Time            // when the synchronisation last made progress
	StaleSeen               time.Time            // when a source of an older generation was last seen
	StaleGateway            dr.GatewayID
	LastTest, LastVerify    time.Time // ends of the last ones that succeeded
	LastJob                 *rest.Job // the newest job of the group, ended or not
	Unmapped                []string  // cards without a network at the standby
	Members                 []Member
}

// Member is one machine of a group.
type Member struct {
	Item    dr.ItemID
	Machine dr.MachineName
	// HomeThere and RecoveryThere: the site's inventory lists the machine;
	// the states are unknown where it does not.
	HomeThere, RecoveryThere bool
	HomeState, RecoveryState site.PowerState
	// Agent is nil where none has enrolled.
	Agent *Agent
}

// Agent is what is known of a machine's agent.
type Agent struct {
	LastHeartbeat   time.Time
	CertificateEnds time.Time
}
