package journal

import (
	"slices"
	"sync"

	"github.com/tidwall/btree"

	"rebound/internal/dr"
	"rebound/internal/extent"
)

// piece says where a run of a disk's content lies in redo.
type piece struct {
	off, len int64
	seg      *segmentFile
	seq      dr.Seq
	frame    uint32 // where the frame begins in the segment
	payload  uint32 // where the run begins in the frame's payload, or zeroes
}

// zeroes as a payload means that the run reads as zeroes.
const zeroes = 1<<32 - 1

func (p *piece) end() int64 { return p.off + p.len }

func (p *piece) position() dr.Position { return p.seg.at(p.seq) }

// cut returns the part of p inside [off, end).
func (p piece) cut(off, end int64) piece {
	if off > p.off {
		if p.payload != zeroes {
			p.payload += uint32(off - p.off)
		}
		p.len -= off - p.off
		p.off = off
	}
	p.len = min(p.len, end-p.off)
	return p
}

// layer leads from one anchor of a disk to another: it knows the content of
// some ranges at its far end. Redo is the kind there is; layers of old content
// (undo) and merged runs answer the same question.
type layer interface {
	// lookup appends the pieces that cover parts of r, clipped to r and in
	// order, and holds their segments until releasePieces.
	lookup(dst []piece, r extent.Range) []piece
	// prune forgets what lies at or before an anchor that the bases reached.
	prune(anchor dr.Position)
}

// runMap is redo of one disk, flattened: for each range the newest write. It
// may be read and changed concurrently.
type runMap struct {
	mu   sync.RWMutex
	tree *btree.BTreeG[piece]
}

var _ layer = (*runMap)(nil)

func newRunMap() *runMap {
	return &runMap{tree: btree.NewBTreeGOptions(func(a, b piece) bool { return a.off < b.off }, btree.Options{NoLocks: true})}
}

// clone returns a copy; both go on apart. It costs nothing until they change.
func (m *runMap) clone() *runMap {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &runMap{tree: m.tree.Copy()}
}

// put lays p over everything that is there.
func (m *runMap) put(p piece) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var hit [8]piece
	under := m.overlapping(hit[:0], p.off, p.end())
	for _, q := range under {
		if q.off >= p.off || q.end() > p.end() {
			m.tree.Delete(q)
		}
	}
	for _, q := range under {
		if q.off < p.off {
			m.tree.Set(q.cut(q.off, p.off)) // replaces q
		}
		if q.end() > p.end() {
			m.tree.Set(q.cut(p.end(), q.end()))
		}
	}
	m.tree.Set(p)
}

// overlapping appends the stored pieces that share a byte with [off, end), in
// order: one walk down the tree, from the last of them back.
func (m *runMap) overlapping(dst []piece, off, end int64) []piece {
	n := len(dst)
	m.tree.Descend(piece{off: end - 1}, func(q piece) bool {
		if q.end() <= off {
			return false
		}
		dst = append(dst, q)
		return q.off > off
	})
	slices.Reverse(dst[n:])
	return dst
}

func (m *runMap) lookup(dst []piece, r extent.Range) []piece {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := len(dst)
	dst = m.overlapping(dst, r.Off, r.End())
	for i := n; i < len(dst); i++ {
		dst[i] = dst[i].cut(r.Off, r.End())
		dst[i].seg.hold()
	}
	return dst
}

// releasePieces ends the hold of lookup.
func releasePieces(list []piece) {
	for i := range list {
		list[i].seg.release()
	}
}

func (m *runMap) prune(anchor dr.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var old []piece
	m.tree.Scan(func(p piece) bool {
		if p.position().Compare(anchor) <= 0 {
			old = append(old, p)
		}
		return true
	})
	for _, p := range old {
		m.tree.Delete(p)
	}
}

// pieces returns all pieces in order, without holding their segments.
func (m *runMap) pieces() []piece {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]piece, 0, m.tree.Len())
	m.tree.Scan(func(p piece) bool {
		out = append(out, p)
		return true
	})
	return out
}
