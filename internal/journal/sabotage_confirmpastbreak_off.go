//go:build !sabotage_confirmpastbreak

package journal

const sabotageConfirmPastBreak = false
