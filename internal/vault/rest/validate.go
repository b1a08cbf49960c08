package rest

import (
	"rebound/internal/control"
	"rebound/internal/dr"
)

// SiteValidation says how a site's driver kept its contract.
type SiteValidation struct {
	Site    dr.SiteID    `json:"site"`
	Gateway dr.GatewayID `json:"gateway"`
	// OK: nothing failed.
	OK     bool                `json:"ok"`
	Checks []control.SiteCheck `json:"checks"`
}
