package rest

import (
	"rebound/internal/dr"
	"rebound/internal/site"
)

// SiteChange is what can be changed of a site.
type SiteChange struct {
	Description string `json:"description"`
}

// GroupChange is what can be changed of a group; its members cannot.
type GroupChange struct {
	Policy dr.PolicyID `json:"policy" minLength:"1"`
}

// NetworkMapping says which networks of two sites stand for each other. A
// machine that is recovered gets the network at the other end, unless its own
// target settings name another.
type NetworkMapping struct {
	ID   dr.MappingID  `json:"id" doc:"1 to 63 letters, digits and hyphens"`
	From NetworkMapEnd `json:"from"`
	To   NetworkMapEnd `json:"to"`
	// OneWay mappings do not hold from To to From: several networks may so
	// be mapped to one.
	OneWay bool `json:"oneWay,omitempty"`
}

// NetworkMapEnd is a network of a site, and the network that stands in for it
// in a test failover to that site.
type NetworkMapEnd struct {
	Site    dr.SiteID `json:"site" minLength:"1"`
	Network string    `json:"network" minLength:"1"`
	// TestNetwork joins the machines of a test and nothing else; it is made
	// when it is first needed.
	TestNetwork string `json:"testNetwork,omitempty"`
}

// ItemSettings are a machine's target settings: how it is to be at either site
// when it is recovered there.
type ItemSettings struct {
	Item dr.ItemID `json:"item,omitempty" readOnly:"true"`
	// Recovery holds after a failover, Home after a failback.
	Recovery *site.TargetSettings `json:"recovery,omitempty"`
	Home     *site.TargetSettings `json:"home,omitempty"`
}
