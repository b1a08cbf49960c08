// Package orchestrator runs the vault's jobs: every operation on a replication
// group is a job of ordered tasks that survives the death of the vault.
//
// It promises: one job at a time on a group; a task whose rows say that it is
// done is never run again; a command to a gateway carries (job, task) and the
// lease, so that a repetition has no second effect; the rows a task changes
// change in the transaction that marks it done. Jobs run on DBOS Transact,
// which is seen by no other package. The vault's API is the only caller.
package orchestrator
