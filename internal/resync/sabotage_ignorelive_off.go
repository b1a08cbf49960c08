//go:build !sabotage_ignorelive

package resync

// sabotageIgnoreLive, when built in, makes Inflight forget live writes. It
// proves that the tests would notice.
const sabotageIgnoreLive = false
