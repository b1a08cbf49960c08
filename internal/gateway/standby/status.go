package standby

import (
	"rebound/internal/dr"
	"rebound/internal/journal"
)

// Journals returns the status of every open journal.
func (h *Host) Journals() map[dr.GroupID]journal.Status {
	out := map[dr.GroupID]journal.Status{}
	for _, g := range h.all() {
		if jrn, err := g.open(); err == nil {
			out[g.id] = jrn.Status()
		}
	}
	return out
}
