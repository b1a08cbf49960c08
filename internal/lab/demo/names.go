package demo

import "rebound/internal/vault"

// The files that the vault leaves in its directory for its first user.
const (
	vaultTokenFile = vault.TokenFile
	vaultCAFile    = vault.CAFile
)
