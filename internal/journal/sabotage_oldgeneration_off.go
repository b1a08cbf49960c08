//go:build !sabotage_oldgeneration

package journal

const sabotageOldGeneration = false
