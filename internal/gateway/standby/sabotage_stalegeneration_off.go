//go:build !sabotage_stalegeneration

package standby

// sabotageStaleGeneration is the bug of admitting a source whose generation is
// over.
const sabotageStaleGeneration = false
