//go:build sabotage_thawlate

package source

const sabotageThawLate = true
