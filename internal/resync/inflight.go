package resync

import (
	"sort"

	"rebound/internal/dr"
	"rebound/internal/extent"
)

// Token stands for a range in flight.
type Token struct {
	ID    uint64 // unique within its Inflight; 0 is no token
	Seq   dr.Seq // the last number handed out before the range went in flight
	Disk  uint16
	Range extent.Range
}

// Inflight tracks the ranges in flight and what live writes touch in them. It
// is not safe for concurrent use, on purpose: all calls belong inside the
// critical section that hands out numbers, because a live write and its number
// must be one step for a range in flight. The zero Inflight is ready for use.
//
// Live costs one comparison and no memory when nothing is in flight, and
// allocates only while it notes a live write that hits a range in flight. A
// range of Window bytes notes at most Window/512 runs if guests write sectors.
type Inflight struct {
	last uint64
	open []flight
	free []*extent.Set
}

type flight struct {
	token Token
	live  *extent.Set
}

// Begin puts r of the disk in flight. last is the newest number handed out.
func (f *Inflight) Begin(disk uint16, r extent.Range, last dr.Seq) Token {
	f.last++
	t := Token{ID: f.last, Seq: last, Disk: disk, Range: r}
	live := &extent.Set{}
	if n := len(f.free); n > 0 {
		live, f.free = f.free[n-1], f.free[:n-1]
	}
	f.open = append(f.open, flight{t, live})
	return t
}

// Live notes that a live write, zero or trim of the guest touches r of the
// disk. Call it with each one's number, whatever is in flight.
func (f *Inflight) Live(disk uint16, r extent.Range) {
	if len(f.open) == 0 || sabotageIgnoreLive {
		return
	}
	for i := range f.open {
		o := &f.open[i]
		if o.token.Disk != disk {
			continue
		}
		if x := o.token.Range.Intersect(r); !x.Empty() {
			o.live.Add(x)
		}
	}
}

// Untouched appends to dst the parts of r, which lies within the token's range,
// that no live write has touched since Begin. It returns dst unchanged for a
// token that has ended.
func (f *Inflight) Untouched(t Token, r extent.Range, dst []extent.Range) []extent.Range {
	i := f.find(t)
	if i < 0 {
		return dst
	}
	r = r.Intersect(t.Range)
	runs := f.open[i].live.Runs()
	at := r.Off
	for j := sort.Search(len(runs), func(j int) bool { return runs[j].End() > r.Off }); j < len(runs) && runs[j].Off < r.End(); j++ {
		if runs[j].Off > at {
			dst = append(dst, extent.Range{Off: at, Len: runs[j].Off - at})
		}
		at = runs[j].End()
	}
	if at < r.End() {
		dst = append(dst, extent.Range{Off: at, Len: r.End() - at})
	}
	return dst
}

// End takes the token's range out of flight. Ending one twice does nothing.
func (f *Inflight) End(t Token) {
	i := f.find(t)
	if i < 0 {
		return
	}
	live := f.open[i].live
	live.Reset()
	f.free = append(f.free, live)
	n := len(f.open) - 1
	f.open[i] = f.open[n]
	f.open[n] = flight{}
	f.open = f.open[:n]
}

// Len returns how many ranges are in flight.
func (f *Inflight) Len() int { return len(f.open) }

func (f *Inflight) find(t Token) int {
	for i := range f.open {
		if f.open[i].token.ID == t.ID {
			return i
		}
	}
	return -1
}
