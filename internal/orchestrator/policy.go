package orchestrator

import (
	"rebound/internal/control"
	"rebound/internal/vault/rest"
)

// DefaultPolicy is what groups get that name none.
func DefaultPolicy() rest.Policy {
	p := rest.Policy{
		ID: "default", RPOThreshold: 3600, CrashInterval: 300, RedoWindow: 7200, Retention: 86400, Compression: "s2",
		ShutdownTimeout: 120, BootTimeout: 300,
	}
	f := rest.NewFailbackPolicy(p)
	p.Failback = &f
	return p
}

// PolicySettings is what the gateways of a group need of its policy.
func PolicySettings(p rest.Policy) control.PolicySettings {
	return control.PolicySettings{
		CrashInterval: seconds(p.CrashInterval), AppInterval: seconds(p.AppInterval), Compression: p.Compression, Bandwidth: p.Bandwidth,
		RedoWindow: seconds(p.RedoWindow), Retention: seconds(p.Retention),
	}
}
