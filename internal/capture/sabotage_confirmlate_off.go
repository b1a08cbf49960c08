//go:build !sabotage_confirmlate

package capture

// sabotageConfirmLate, in a build with its tag, lets the stream go on and be
// confirmed after a member was lost. Tests prove that this is noticed.
const sabotageConfirmLate = false
