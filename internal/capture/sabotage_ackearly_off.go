//go:build !sabotage_ackearly

package capture

// sabotageAckEarly, in a build with its tag, acknowledges a write before it has
// its number.
const sabotageAckEarly = false
