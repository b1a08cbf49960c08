//go:build !sabotage_thawlate

package source

// sabotageThawLate is the bug of leaving frozen guests to their
// deadline.
const sabotageThawLate = false
