//go:build !sabotage_basefirst

package journal

const sabotageBaseFirst = false
