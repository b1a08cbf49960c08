//go:build !sabotage_forgetbitmap

package source

// sabotageForgetBitmap is the bug of leaving the oldest bitmap out of a
// resynchronisation.
const sabotageForgetBitmap = false
