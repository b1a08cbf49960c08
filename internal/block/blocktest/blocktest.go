// Package blocktest is the conformance suite of block.Device: every
// implementation passes Run in its own tests. Only tests may import it.
package blocktest
