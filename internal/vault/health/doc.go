// Package health holds the conditions that Rebound knows, in one table: code,
// severity, title, causes, action, and when each appears and goes. It is pure:
// facts in, conditions out; whoever calls it (the vault's monitor) gathers the
// facts and keeps the result.
//
// It promises that a condition clears by itself once its cause is gone, that a
// value which wavers around a limit does not make a condition come and go, and
// that facts which are missing (a vault that has just started) change nothing.
package health
