//go:build !sabotage_repeatframe

package link

const sabotageRepeatFrame = false
