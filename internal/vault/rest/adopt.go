package rest

import (
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
)

// AdoptRequest rebuilds what the vault does not know from its gateways.
type AdoptRequest struct {
	// Partial takes the word of one gateway of a group where the other one
	// is away.
	Partial bool `json:"partial,omitempty"`
	// DryRun says what would be found and changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// Adoption is what was found at the gateways.
type Adoption struct {
	// Gateways were asked; Silent did not answer.
	Gateways []dr.GatewayID `json:"gateways"`
	Silent   []dr.GatewayID `json:"silent"`
	Groups   []AdoptedGroup `json:"groups"`
	// Unknown says what gateways do not keep.
	Unknown []string `json:"unknown"`
}

// AdoptedGroup is one group that gateways keep.
type AdoptedGroup struct {
	Group dr.GroupID `json:"group"`
	// Result is adopted (new to the vault), confirmed (the vault's row was
	// mended), known (nothing to do), or refused.
	Result     string          `json:"result" enum:"adopted,confirmed,known,refused"`
	State      lifecycle.State `json:"state,omitempty"`
	Generation dr.Generation   `json:"generation,omitempty"`
	Active     dr.SiteID       `json:"active,omitempty"`
	// Notes say what could not be known, or why it was refused.
	Notes []string `json:"notes,omitempty"`
}
