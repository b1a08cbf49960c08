// Package extent is arithmetic on ranges of bytes: pure, no I/O. Range is a
// half-open run, Set a sorted list of disjoint runs. Anyone may import it.
package extent

import (
	"slices"
	"sort"
)

// Range is the half-open run [Off, Off+Len) of bytes. Len >= 0.
type Range struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
}

// End returns the first byte after r.
func (r Range) End() int64 { return r.Off + r.Len }

// Empty reports whether r holds no byte.
func (r Range) Empty() bool { return r.Len <= 0 }

// Overlaps reports whether r and s share a byte.
func (r Range) Overlaps(s Range) bool {
	return r.Off < s.End() && s.Off < r.End() && r.Len > 0 && s.Len > 0
}

// Intersect returns what r and s share; it may be empty.
func (r Range) Intersect(s Range) Range {
	off := max(r.Off, s.Off)
	end := min(r.End(), s.End())
	if end <= off {
		return Range{Off: off}
	}
	return Range{off, end - off}
}

// Align returns the smallest range of whole blocks that covers r.
func (r Range) Align(block int64) Range {
	if r.Empty() {
		return r
	}
	off := r.Off / block * block
	end := (r.End() + block - 1) / block * block
	return Range{off, end - off}
}

// Set is a set of bytes, held as sorted, disjoint, non-adjacent ranges. The
// zero Set is empty. A Set is not safe for concurrent writes.
type Set struct{ runs []Range }

// NewSet returns the union of the ranges.
func NewSet(ranges ...Range) *Set {
	s := &Set{}
	for _, r := range ranges {
		s.Add(r)
	}
	return s
}

// Runs returns the ranges in order; the caller must not change them.
func (s *Set) Runs() []Range { return s.runs }

// Empty reports whether the set holds no byte.
func (s *Set) Empty() bool { return len(s.runs) == 0 }

// Bytes returns how many bytes the set holds.
func (s *Set) Bytes() int64 {
	var n int64
	for _, r := range s.runs {
		n += r.Len
	}
	return n
}

// Clone returns a copy that shares nothing.
func (s *Set) Clone() *Set { return &Set{runs: slices.Clone(s.runs)} }

// Reset empties the set and keeps its memory.
func (s *Set) Reset() { s.runs = s.runs[:0] }

// firstEnding returns the index of the first run that ends after off.
func (s *Set) firstEnding(off int64) int {
	return sort.Search(len(s.runs), func(i int) bool { return s.runs[i].End() > off })
}

// Add puts r into the set.
func (s *Set) Add(r Range) {
	if r.Empty() {
		return
	}
	// Runs that touch r, adjacency included, are merged with it.
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].End() >= r.Off })
	j := i
	for j < len(s.runs) && s.runs[j].Off <= r.End() {
		off := min(r.Off, s.runs[j].Off)
		end := max(r.End(), s.runs[j].End())
		r = Range{off, end - off}
		j++
	}
	s.runs = slices.Replace(s.runs, i, j, r)
}

// Remove takes r out of the set.
func (s *Set) Remove(r Range) {
	if r.Empty() {
		return
	}
	i := s.firstEnding(r.Off)
	j := i
	var keep [2]Range
	n := 0
	for j < len(s.runs) && s.runs[j].Off < r.End() {
		run := s.runs[j]
		if run.Off < r.Off {
			keep[n] = Range{run.Off, r.Off - run.Off}
			n++
		}
		if run.End() > r.End() {
			keep[n] = Range{r.End(), run.End() - r.End()}
			n++
		}
		j++
	}
	s.runs = slices.Replace(s.runs, i, j, keep[:n]...)
}

// Union adds all of t.
func (s *Set) Union(t *Set) {
	for _, r := range t.runs {
		s.Add(r)
	}
}

// Overlaps reports whether the set holds a byte of r.
func (s *Set) Overlaps(r Range) bool {
	i := s.firstEnding(r.Off)
	return i < len(s.runs) && s.runs[i].Overlaps(r)
}

// Within returns the parts of the set inside r, in order.
func (s *Set) Within(r Range) []Range {
	var out []Range
	for i := s.firstEnding(r.Off); i < len(s.runs) && s.runs[i].Off < r.End(); i++ {
		if x := s.runs[i].Intersect(r); !x.Empty() {
			out = append(out, x)
		}
	}
	return out
}

// Outside returns the parts of r that the set does not hold, in order.
func (s *Set) Outside(r Range) []Range {
	var out []Range
	at := r.Off
	for _, x := range s.Within(r) {
		if x.Off > at {
			out = append(out, Range{at, x.Off - at})
		}
		at = x.End()
	}
	if at < r.End() {
		out = append(out, Range{at, r.End() - at})
	}
	return out
}
