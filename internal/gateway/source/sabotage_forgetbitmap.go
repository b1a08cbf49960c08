//go:build sabotage_forgetbitmap

package source

const sabotageForgetBitmap = true
