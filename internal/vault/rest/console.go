package rest

import (
	"rebound/internal/dr"
	"rebound/internal/site"
)

// Console is what a machine of an item shows. Picture is base64 in JSON; ask for
// image/png or text/plain to get one part as it is.
type Console struct {
	Item dr.ItemID `json:"item"`
	Site dr.SiteID `json:"site"`
	// Test: it is the machine of the test failover.
	Test bool `json:"test"`
	site.ConsoleView
}

// The machines of an item whose console can be asked for.
const (
	// ActiveMachine is the one that runs at the active site.
	ActiveMachine = "active"
	// TestMachine is the one of the test failover.
	TestMachine = "test"
)
