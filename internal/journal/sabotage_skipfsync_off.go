//go:build !sabotage_skipfsync

package journal

const sabotageSkipFsync = false
