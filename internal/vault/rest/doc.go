// Package rest holds the resources of the vault's REST API as they appear on
// the wire, under /api/v1. The API serves them, the typed client and the
// command line read them; they carry no behaviour. Times are UTC, durations
// are seconds, sizes are bytes. Changes are additions: a field never changes
// its name or meaning.
package rest
