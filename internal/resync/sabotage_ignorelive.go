//go:build sabotage_ignorelive

package resync

const sabotageIgnoreLive = true
