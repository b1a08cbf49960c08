//go:build sabotage_skipfsync

package journal

// A bug on purpose: a named test must fail with it (make sabotage).
const sabotageSkipFsync = true
