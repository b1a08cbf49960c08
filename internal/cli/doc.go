// Package cli is the command line: one file a subject, each command built by a
// newX function. Operator commands speak only the vault's public REST API;
// "rebound journal" works on a directory; the roles (vault, gateway, capture,
// agent) are started here and live in their own packages.
//
// Run is the only entry; it never exits the process and reads no global state,
// so tests and the lab call it too.
package cli
