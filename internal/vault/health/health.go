package health

import (
	"fmt"
	"time"

	"rebound/internal/vault/rest"
)

// Code names a condition, for ever.
type Code string

// Row is one condition of the table.
type Row struct {
	Code  Code
	Title string
	// Object is what it is about.
	Object rest.ObjectKind
	// Severities lists those that it can have, the first one first.
	Severities []rest.Severity
	// When says in words when it appears and goes, with the numbers.
	When   string
	Causes []string
	Action string
	// Azure names what Azure Site Recovery has in its place; "" for nothing.
	Azure string
	// After is how long it must be found before it appears, Hold how long it must
	// not be found before it goes.
	After, Hold time.Duration
	// Spreads: of a gateway or site; it counts for the groups there too.
	Spreads bool

	find func(*eval)
}

// Key identifies a condition of an object.
type Key struct {
	Code Code
	Kind rest.ObjectKind
	ID   string
}

// String is the key as it is stored.
func (k Key) String() string { return fmt.Sprintf("%s %s %s", k.Code, k.Kind, k.ID) }

// KeyOf returns the key of a condition.
func KeyOf(c *rest.Condition) Key { return Key{Code(c.Code), c.Object.Kind, c.Object.ID} }

// eval is one look at the facts for one row.
type eval struct {
	*Facts
	row   *Row
	open  map[Key]*rest.Condition
	found map[Key]finding
	kept  map[Key]bool
}

type finding struct {
	row      *Row
	object   rest.Object
	severity rest.Severity
	text     string
}

// raise says that the condition holds for an object.
func (e *eval) raise(o rest.Object, s rest.Severity, format string, args ...any) {
	o.Kind = e.row.Object
	e.found[Key{e.row.Code, o.Kind, o.ID}] = finding{e.row, o, s, fmt.Sprintf(format, args...)}
}

// keep says that the facts about an object are missing: what is open stays open,
// and nothing appears.
func (e *eval) keep(o rest.Object) { e.kept[Key{e.row.Code, e.row.Object, o.ID}] = true }

// was returns the open condition of an object, or nil.
func (e *eval) was(o rest.Object) *rest.Condition {
	return e.open[Key{e.row.Code, e.row.Object, o.ID}]
}

// lasting returns for how long the condition of an object has been open.
func (e *eval) lasting(o rest.Object) time.Duration {
	if c := e.was(o); c != nil {
		return e.Now.Sub(c.Since)
	}
	return 0
}

// over decides with hysteresis whether a value is over a limit: once it was, it
// must fall below clear.
func (e *eval) over(o rest.Object, value, limit, clear float64) bool {
	if e.was(o) != nil {
		return value >= clear
	}
	return value > limit
}

// age is the time since t; 0 for a zero t.
func (e *eval) age(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return e.Now.Sub(t)
}

// from grades by a second limit.
func from(critical bool) rest.Severity {
	if critical {
		return rest.SeverityCritical
	}
	return rest.SeverityWarning
}

// about rounds a time for people.
func about(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= time.Hour:
		return d.Round(time.Minute).String()
	default:
		return d.Round(time.Second).String()
	}
}
