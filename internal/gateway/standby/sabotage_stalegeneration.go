//go:build sabotage_stalegeneration

package standby

const sabotageStaleGeneration = true
