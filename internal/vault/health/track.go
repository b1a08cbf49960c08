package health

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"rebound/internal/vault/rest"
)

// Change is a condition that began, ended (Condition.Cleared is set) or changed its
// severity.
type Change struct {
	Condition rest.Condition
	Began     bool
}

// Tracker follows conditions from one look at the facts to the next. It is not
// safe for use by several goroutines.
type Tracker struct {
	rows []Row
	open map[Key]*rest.Condition
	// pending: found, but not for long enough; fading: not found any more, but
	// not for long enough.
	pending, fading map[Key]time.Time
}

// NewTracker returns a tracker that goes on with what is open already.
func NewTracker(open []rest.Condition) *Tracker {
	t := &Tracker{rows: Table(), open: map[Key]*rest.Condition{}, pending: map[Key]time.Time{}, fading: map[Key]time.Time{}}
	for _, c := range open {
		t.open[KeyOf(&c)] = &c
	}
	return t
}

// Open returns what is open, infrastructure first, then the worst first.
func (t *Tracker) Open() []rest.Condition {
	out := make([]rest.Condition, 0, len(t.open))
	for _, c := range t.open {
		out = append(out, *c)
	}
	Sort(out)
	return out
}

// Adopt replaces an open condition, for example after it was given its number or
// a note was put on it.
func (t *Tracker) Adopt(c rest.Condition) {
	if _, ok := t.open[KeyOf(&c)]; ok {
		t.open[KeyOf(&c)] = &c
	}
}

// Step looks at the facts and returns what changed, in a stable order. The texts
// of what stays open are brought up to date without a change.
func (t *Tracker) Step(f *Facts) []Change {
	found, kept := t.look(f)
	var out []Change
	for _, k := range slices.SortedFunc(maps.Keys(found), compareKeys) {
		delete(t.fading, k)
		if c, ok := t.begin(k, found[k], f.Now); ok {
			out = append(out, c)
		}
	}
	for k := range t.pending {
		if _, ok := found[k]; !ok && !kept[k] {
			delete(t.pending, k)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(t.open), compareKeys) {
		if _, ok := found[k]; ok || kept[k] {
			continue
		}
		if c, ok := t.end(k, f.Now); ok {
			out = append(out, c)
		}
	}
	return out
}

func (t *Tracker) look(f *Facts) (found map[Key]finding, kept map[Key]bool) {
	e := eval{Facts: f, open: t.open, found: map[Key]finding{}, kept: map[Key]bool{}}
	for i := range t.rows {
		e.row = &t.rows[i]
		e.row.find(&e)
	}
	return e.found, e.kept
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
}

// begin opens a condition, or brings an open one up to date.
func (t *Tracker) begin(k Key, x finding, now time.Time) (Change, bool) {
	if c := t.open[k]; c != nil {
		graver := c.Severity != x.severity
		c.Severity, c.Text, c.Object = x.severity, x.text, x.object
		if weight(x.severity) < weight(c.Worst) {
			c.Worst = x.severity
		}
		c.Title, c.PossibleCauses, c.RecommendedAction = x.row.Title, x.row.Causes, x.row.Action
		return Change{Condition: *c}, graver
	}
	since, ok := t.pending[k]
	if !ok {
		since = now
		t.pending[k] = now
	}
	if now.Sub(since) < x.row.After {
		return Change{}, false
	}
	delete(t.pending, k)
	c := &rest.Condition{
		Code: string(k.Code), Severity: x.severity, Worst: x.severity, Title: x.row.Title, Text: x.text, PossibleCauses: x.row.Causes,
		RecommendedAction: x.row.Action, Object: x.object, Since: since.UTC(),
	}
	t.open[k] = c
	return Change{Condition: *c, Began: true}, true
}

// end closes a condition that has not been found for long enough.
func (t *Tracker) end(k Key, now time.Time) (Change, bool) {
	since, ok := t.fading[k]
	if !ok {
		since = now
		t.fading[k] = now
	}
	row, known := RowOf(k.Code)
	if known && now.Sub(since) < row.Hold {
		return Change{}, false
	}
	c := *t.open[k]
	c.Cleared = now.UTC()
	delete(t.open, k)
	delete(t.fading, k)
	return Change{Condition: c}, true
}
