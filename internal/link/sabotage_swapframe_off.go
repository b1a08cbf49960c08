//go:build !sabotage_swapframe

package link

const sabotageSwapFrame = false
