package source

import (
	"fmt"
	"slices"
	"strings"

	"rebound/internal/dr"
)

// bitmapPrefix names our bitmaps on the disks of a member.
const bitmapPrefix = "rebound-dirty-"

// tracked is one bitmap, begun on every disk of every member.
type tracked struct {
	N int `json:"n"`
	// Marker is the position of the marker that was placed after the bitmap
	// was begun; zero until it is known.
	Marker dr.Position `json:"marker"`
	// Put is set once the bitmap is known to be on at every disk. One that
	// is not holds nothing that an older one lacks, and is not relied on.
	Put bool `json:"put"`
}

func (t tracked) name() string { return fmt.Sprintf("%s%d", bitmapPrefix, t.N) }

// bitmaps is the book of the bitmaps that are on. Its rule: their union holds
// every write that the standby may lack. A bitmap begun at marker k may go only
// when everything before marker k+2 is durable at the standby: then every write
// that began before bitmap k+1 was on is there, and later ones are in k+1.
type bitmaps struct {
	Next int       `json:"next"`
	On   []tracked `json:"on"`
	// First is the number of the bitmap that was begun for the present
	// stream, before its synchronisation; older ones go when that is durable.
	First int `json:"first"`
	// Covered is the position up to which the standby was durable when a
	// bitmap was last dropped: the union covers a standby that has at least
	// that, and no other.
	Covered dr.Position `json:"covered"`
}

// begin books a new bitmap; the caller has to put it on before it relies on it.
func (b *bitmaps) begin() tracked {
	b.Next++
	t := tracked{N: b.Next}
	b.On = append(b.On, t)
	return t
}

// put notes that bitmap n is on everywhere.
func (b *bitmaps) put(n int) {
	for i := range b.On {
		b.On[i].Put = b.On[i].Put || b.On[i].N == n
	}
}

// purge forgets bitmaps that are not known to be on everywhere.
func (b *bitmaps) purge() {
	b.On = slices.DeleteFunc(slices.Clone(b.On), func(t tracked) bool { return !t.Put })
}

// whole reports whether the union of the bitmaps before the newest covers a
// standby whose newest durable position is prev.
func (b bitmaps) whole(prev dr.Position) bool {
	return len(b.On) > 1 && !b.Covered.IsZero() && prev.Epoch != 0 && !prev.Before(b.Covered)
}

// marked notes the marker after the newest bitmap.
func (b *bitmaps) marked(pos dr.Position) {
	if n := len(b.On); n > 0 {
		b.On[n-1].Marker = pos
	}
}

// names lists the bitmaps that are on.
func (b bitmaps) names() []string {
	out := make([]string, len(b.On))
	for i, t := range b.On {
		out[i] = t.name()
	}
	if sabotageForgetBitmap && len(out) > 1 {
		out = out[1:]
	}
	return out
}

// droppable returns the oldest bitmaps that may go when the standby has all up
// to durable.
func (b bitmaps) droppable(durable dr.Position) []tracked {
	n := 0
	for n+2 < len(b.On) {
		after := b.On[n+2].Marker
		if after.IsZero() || durable.Before(after) {
			break
		}
		n++
	}
	return b.On[:n]
}

// synchronised returns the bitmaps that may go once a synchronisation that
// began with bitmap first already on has ended and is durable.
func (b bitmaps) synchronised(first int) []tracked {
	n := 0
	for n < len(b.On) && b.On[n].N < first {
		n++
	}
	return b.On[:n]
}

// drop forgets the n oldest; the standby is durable up to durable.
func (b *bitmaps) drop(n int, durable dr.Position) {
	b.On = append([]tracked(nil), b.On[n:]...)
	if b.Covered.Before(durable) {
		b.Covered = durable
	}
}

// reset forgets everything: the bitmaps are gone with their hypervisor, or say
// nothing any more.
func (b *bitmaps) reset() { b.On, b.Covered, b.First = nil, dr.Position{}, 0 }

// present reports whether every bitmap of the book is among those found.
func (b bitmaps) present(found []string) bool {
	have := map[string]bool{}
	for _, f := range found {
		have[f] = true
	}
	for _, t := range b.On {
		if !have[t.name()] {
			return false
		}
	}
	return len(b.On) > 0
}

// strangers returns bitmaps of ours on a disk that the book does not name.
func (b bitmaps) strangers(found []string) []string {
	known := map[string]bool{}
	for _, t := range b.On {
		known[t.name()] = true
	}
	var out []string
	for _, f := range found {
		if strings.HasPrefix(f, bitmapPrefix) && !known[f] {
			out = append(out, f)
		}
	}
	return out
}
