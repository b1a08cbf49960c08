//go:build sabotage_ackearly

package capture

const sabotageAckEarly = true
