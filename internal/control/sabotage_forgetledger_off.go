//go:build !sabotage_forgetledger

package control

const sabotageForgetLedger = false
