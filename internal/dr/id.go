package dr

import (
	"fmt"
	"regexp"
)

// The names people and programs use for things. They are distinct types so
// that the compiler checks the order of arguments.
type (
	// SiteID names a place that runs machines.
	SiteID string
	// GatewayID names a data-plane process on a site.
	GatewayID string
	// MachineName names a machine at its site. A machine keeps its name
	// on both sites.
	MachineName string
	// DiskID names a disk within its machine, in definition order: "disk0".
	DiskID string
	// ItemID names a replicated item (one protected machine).
	ItemID string
	// GroupID names a replication group. A machine protected alone is in a
	// group of one.
	GroupID string
	// PolicyID names a replication policy.
	PolicyID string
	// MappingID names a network mapping.
	MappingID string
	// JobID names a running or finished operation.
	JobID string
	// PointID names a recovery point within its group.
	PointID string
)

var nameRE = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// ValidName reports whether s can name a machine, site, gateway, group or
// policy: 1 to 63 letters, digits and hyphens, beginning and ending with a
// letter or digit (the rule of Azure Site Recovery for machine names).
func ValidName(s string) error {
	if !nameRE.MatchString(s) {
		return fmt.Errorf("name %q: want 1 to 63 letters, digits or hyphens, beginning and ending with a letter or digit", s)
	}
	return nil
}
