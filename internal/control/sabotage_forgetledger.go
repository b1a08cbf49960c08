//go:build sabotage_forgetledger

package control

// sabotageForgetLedger makes the ledger find nothing, so a command that a vault
// repeats runs again. A crash test must notice.
const sabotageForgetLedger = true
