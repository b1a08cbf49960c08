// Package vaultkill kills vault processes, as kill -9 does, before, inside and
// after every task of every operation, takes whole vaults away, restores them
// from backups and rebuilds them from their gateways. Vault and gateways are
// real processes that speak TLS to each other; the gateways' sites are package
// fake, whose calls are counted. It has tests only.
package vaultkill
