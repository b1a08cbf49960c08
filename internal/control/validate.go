package control

import "time"

// SiteCheck is one part of the contract of a site's driver, tried on scratch
// machines.
type SiteCheck struct {
	Name string `json:"name"`
	// Outcome is passed, failed or skipped (the site does not have the ability).
	Outcome string        `json:"outcome" enum:"passed,failed,skipped"`
	Took    time.Duration `json:"took"`
	Text    string        `json:"text,omitempty"`
}

// ValidateRequest asks for a site to be tried.
type ValidateRequest struct{}

// ValidateResult says how each part went.
type ValidateResult struct {
	Checks []SiteCheck `json:"checks"`
}
