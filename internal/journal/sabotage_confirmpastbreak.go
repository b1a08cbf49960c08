//go:build sabotage_confirmpastbreak

package journal

// A bug on purpose: a named test must fail with it (make sabotage).
const sabotageConfirmPastBreak = true
