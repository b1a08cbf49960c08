package rest

import "rebound/internal/dr"

// Policy is how items are replicated. Times are in seconds.
type Policy struct {
	ID dr.PolicyID `json:"id"`
	// RPOThreshold raises an event when crossed; it does not change replication.
	RPOThreshold int64 `json:"rpoThresholdSeconds" minimum:"1"`
	// CrashInterval is the time between crash-consistent points.
	CrashInterval int64 `json:"crashIntervalSeconds" minimum:"1"`
	// AppInterval is the time between application-consistent points; 0 makes
	// none. It is shorter than Retention.
	AppInterval int64 `json:"appIntervalSeconds,omitempty" minimum:"0"`
	// RedoWindow is the stretch in which every moment can be chosen.
	RedoWindow int64 `json:"redoWindowSeconds" minimum:"0"`
	// Retention is how long points are kept, at most 30 days; 0 means as
	// long as RedoWindow.
	Retention int64 `json:"retentionSeconds,omitempty" minimum:"0" maximum:"2592000"`
	// Compression is none or s2.
	Compression string `json:"compression" enum:"none,s2"`
	// Bandwidth limits what a group's stream takes of the link; see
	// dr.Bandwidth for its form. What waits goes into the spool.
	Bandwidth dr.Bandwidth `json:"bandwidth,omitempty" maxLength:"500" doc:"rules '[days] [from-to] rate', separated by commas; the first that holds counts" example:"mon-fri 08:00-18:00 10MB, 100MB"`
	// RequireAgent refuses reprotect until each machine's agent has
	// registered since its start.
	RequireAgent bool `json:"requireAgent"`
	// ShutdownTimeout is how long a guest may take to shut down.
	ShutdownTimeout int64 `json:"shutdownTimeoutSeconds" minimum:"1"`
	// BootTimeout is how long a recovered machine may take to prove that
	// it has booted.
	BootTimeout int64 `json:"bootTimeoutSeconds" minimum:"1"`
	// Probes are checks by which a recovered machine proves that it serves,
	// before the commit of a failback deletes the other one.
	Probes []dr.Probe `json:"probes,omitempty"`
	// DropSeed deletes the disks too when a failback is committed.
	DropSeed bool `json:"dropSeed"`
	// UnmappedNetworks says what a failover does with a card for which there
	// is neither a setting, nor a mapping, nor a network of the same name:
	// refuse (also when empty), or isolate, which starts the machine with
	// the card not connected.
	UnmappedNetworks string `json:"unmappedNetworks,omitempty" enum:"refuse,isolate"`
	// Failback is what holds instead while the items replicate home. One is
	// made with every policy that comes without.
	Failback *FailbackPolicy `json:"failback,omitempty"`
}

// FailbackPolicy is how items replicate from the recovery site home; the fields
// mean what they mean in Policy.
type FailbackPolicy struct {
	RPOThreshold  int64  `json:"rpoThresholdSeconds" minimum:"1"`
	CrashInterval int64  `json:"crashIntervalSeconds" minimum:"1"`
	AppInterval   int64  `json:"appIntervalSeconds" minimum:"0"`
	RedoWindow    int64  `json:"redoWindowSeconds" minimum:"0"`
	Retention     int64  `json:"retentionSeconds" minimum:"0" maximum:"2592000"`
	Compression   string `json:"compression" enum:"none,s2"`
	// Bandwidth of the way back; it is not taken over from the policy.
	Bandwidth dr.Bandwidth `json:"bandwidth,omitempty" maxLength:"500"`
}

// NewFailbackPolicy is what a policy gets that comes without: Azure Site
// Recovery's numbers (RPO threshold 15 minutes, retention 24 hours, an
// application-consistent point every 60 minutes), the rest as in the policy.
func NewFailbackPolicy(p Policy) FailbackPolicy {
	return FailbackPolicy{
		RPOThreshold: 900, CrashInterval: p.CrashInterval, AppInterval: 3600,
		RedoWindow: min(p.RedoWindow, 86400), Retention: 86400, Compression: p.Compression,
	}
}

// For returns the policy as it is for a direction: on the way back the failback
// policy's values stand in the fields of the same names.
func (p Policy) For(d dr.Direction) Policy {
	if d != dr.Back || p.Failback == nil {
		return p
	}
	f := *p.Failback
	p.RPOThreshold, p.CrashInterval, p.AppInterval = f.RPOThreshold, f.CrashInterval, f.AppInterval
	p.RedoWindow, p.Retention, p.Compression, p.Bandwidth = f.RedoWindow, f.Retention, f.Compression, f.Bandwidth
	return p
}
