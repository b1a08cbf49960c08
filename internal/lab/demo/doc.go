// Package demo plays the whole life of a replication group on one machine with
// real guests: two sites, first copy under load, test failover, loss of a
// site, failover, another moment, commit, the old primary's return, reprotect,
// failback home, commit, reprotect. Every claim is judged by the lab's checker
// from what the guests told the host, never by asking the product.
//
// World (world.go) holds the processes and is what the end-to-end tests drive
// too. Run plays the steps (steps_*.go), writes the report and the evidence,
// and leaves nothing behind. "rebound demo" is its caller.
package demo
