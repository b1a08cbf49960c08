package ledger

import "fmt"

// State is what a ledger's files hold, judged.
type State struct {
	// Count is the length of the longest prefix 1..Count of whole records
	// that name each other; it is also the number of its newest record.
	Count  uint64 `json:"count"`
	Newest Ref    `json:"newest"`
	// ChainOK says that every whole record, in the prefix and beyond, stands
	// at its own place and names the one before it.
	ChainOK bool `json:"chainOK"`
	// Gaps counts the missing records before the newest whole one: not 0
	// means that one disk is ahead of the other, or a write was lost.
	Gaps uint64 `json:"gaps"`
	// Torn counts the places at a file's end that hold part of a record;
	// after a crash there may be one, the record that was being written.
	Torn int `json:"torn"`
	// Problem says what is wrong first; empty when the ledger is sound.
	Problem string `json:"problem,omitempty"`
}

// Sound reports a gapless, chained ledger.
func (s State) Sound() bool { return s.ChainOK && s.Gaps == 0 }

// Ledger is the parsed content of a ledger's files.
type Ledger struct {
	// Records is the gapless prefix: Records[i].N == i+1.
	Records []Record
	State   State
}

// Has reports whether the prefix holds exactly that record. The zero Ref is
// had by every ledger.
func (l *Ledger) Has(ref Ref) bool {
	if ref.N == 0 {
		return true
	}
	return ref.N <= uint64(len(l.Records)) && l.Records[ref.N-1].CRC == ref.CRC
}

// Parse reads a ledger from the content of its two files. It never fails: what
// is wrong is in the State.
func Parse(files [Files][]byte) *Ledger {
	byNumber := make(map[uint64]Record)
	l := &Ledger{State: State{ChainOK: true}}
	var highest uint64
	for file, content := range files {
		for slot := 0; slot*RecordSize < len(content); slot++ {
			n := uint64(slot)*Files + uint64(file) + 1
			r, err := Decode(content[slot*RecordSize:])
			switch {
			case err != nil:
				l.badSlot(n, content, slot, err)
			case r.N != n:
				l.broken("file %d holds record %d in the place of record %d", file, r.N, n)
			default:
				byNumber[n] = r
				highest = max(highest, n)
			}
		}
	}
	l.build(byNumber, highest)
	return l
}

// badSlot judges a slot that holds no whole record: at the end of a file it is
// a torn write, before the end the gap count shows it.
func (l *Ledger) badSlot(n uint64, content []byte, slot int, err error) {
	if (slot+1)*RecordSize >= len(content) {
		l.State.Torn++
		return
	}
	l.note("record %d: %v", n, err)
}

func (l *Ledger) build(byNumber map[uint64]Record, highest uint64) {
	prefix := true
	for n := uint64(1); n <= highest; n++ {
		r, ok := byNumber[n]
		if !ok {
			prefix = false
			l.State.Gaps++
			l.note("record %d is missing, %d is there", n, highest)
			continue
		}
		if before, ok := byNumber[n-1]; (ok || n == 1) && r.Prev != before.CRC {
			l.broken("record %d does not name record %d", n, n-1)
			prefix = false
		}
		if prefix {
			l.Records = append(l.Records, r)
		}
	}
	l.State.Count = uint64(len(l.Records))
	if l.State.Count > 0 {
		l.State.Newest = l.Records[l.State.Count-1].Ref()
	}
}

func (l *Ledger) broken(format string, args ...any) {
	l.State.ChainOK = false
	l.note(format, args...)
}

func (l *Ledger) note(format string, args ...any) {
	if l.State.Problem == "" {
		l.State.Problem = fmt.Sprintf(format, args...)
	}
}
