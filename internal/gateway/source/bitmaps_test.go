package source

import (
	"testing"

	"pgregory.net/rapid"

	"rebound/internal/dr"
)

// TestBitmapsCoverWhatTheStandbyLacks plays writes, rotations, durability and
// breaks against the rule: whatever is not durable is in the union.
func TestBitmapsCoverWhatTheStandbyLacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var book bitmaps
		content := map[int]map[int]bool{} // bitmap -> writes in it
		type write struct{ id, pos int }  // pos is its place in the stream; 0 while in flight
		var writes []*write
		pos, durable := 0, 0
		at := func(n int) dr.Position { return dr.Position{Generation: 1, Epoch: 1, Seq: dr.Seq(n)} }
		begin := func() {
			// Beginning a bitmap drains the disks: nothing is in flight.
			for _, w := range writes {
				if w.pos == 0 {
					pos++
					w.pos = pos
				}
			}
			content[book.begin().N] = map[int]bool{}
			pos++
			book.marked(at(pos))
		}
		begin()
		for range rapid.IntRange(10, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0: // the guest writes: in every bitmap that is on
				w := &write{id: len(writes)}
				writes = append(writes, w)
				for _, b := range book.On {
					content[b.N][w.id] = true
				}
			case 1: // a write in flight reaches the sequencer
				for _, w := range writes {
					if w.pos == 0 {
						pos++
						w.pos = pos
						break
					}
				}
			case 2:
				durable = rapid.IntRange(durable, pos).Draw(t, "durable")
				book.drop(len(book.droppable(at(durable))), at(durable))
			case 3:
				begin()
			}
			for _, w := range writes {
				lacking := w.pos == 0 || w.pos > durable
				in := false
				for _, b := range book.On {
					in = in || content[b.N][w.id]
				}
				if lacking && !in {
					t.Fatalf("write %d (pos %d, durable %d) is in no bitmap of %v", w.id, w.pos, durable, book.names())
				}
			}
		}
	})
}

func TestBitmapsSynchronised(t *testing.T) {
	var b bitmaps
	b.begin()
	b.begin()
	third := b.begin()
	old := b.synchronised(third.N)
	if len(old) != 2 {
		t.Fatalf("synchronised: %v", old)
	}
	b.drop(len(old), dr.Position{Generation: 1, Epoch: 2, Seq: 9})
	if names := b.names(); len(names) != 1 || names[0] != third.name() {
		t.Errorf("left: %v", names)
	}
	if !b.present([]string{"x", third.name()}) || b.present(nil) {
		t.Error("present")
	}
	if s := b.strangers([]string{"x", third.name(), bitmapPrefix + "1"}); len(s) != 1 {
		t.Errorf("strangers: %v", s)
	}
}
