//go:build sabotage_basefirst

package journal

// A bug on purpose: a named test must fail with it (make sabotage).
const sabotageBaseFirst = true
