// Package store keeps the vault's state in SQLite: sites, gateways, machines,
// policies, groups with their items, jobs with their tasks, events, tokens,
// agents and the audit log.
//
// It promises that Update is one transaction that is durable on return, that
// transactions are serialised, and that a group's generation only grows. It
// knows no rules of the life cycle. The orchestrator, the API and the vault's
// other packages call it.
package store
