//go:build sabotage_dropframe

package link

const sabotageDropFrame = true
