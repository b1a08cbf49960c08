//go:build sabotage_oldgeneration

package journal

// A bug on purpose: a named test must fail with it (make sabotage).
const sabotageOldGeneration = true
