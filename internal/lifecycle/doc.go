// Package lifecycle is the life of a replicated item as data: its states, the
// operations on it, what each does to the state, and the guards that refuse
// it. It is pure: no I/O, no clock, no memory. The API computes
// allowedOperations from it, the orchestrator moves items by it, and neither
// decides anything that is not in its tables.
//
// States and guards follow Azure Site Recovery for VMware and physical
// machines; where Rebound allows more (undo after an unplanned failover,
// failover while tracking, rehearsal of a failback) the row says so.
package lifecycle
