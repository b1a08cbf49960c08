package resync

import (
	"sort"

	"rebound/internal/dr"
	"rebound/internal/extent"
)

// Token stands for a range in flight.
type Token struct {
	ID uint64 // unique within its Inflight; 0 is no token
	// Seq is the entry that the standby's head view should show before it
	// is compared: the newest live write that may have touched the range
	// before it went in flight, or one later.
	Seq   dr.Seq
	Disk  uint16
	Range extent.Range
}

// Inflight tracks the ranges in flight and what live writes touch in them. It
// is not safe for concurrent use, on purpose: all calls belong inside the
// critical section that hands out numbers, because a live write and its number
// must be one step for a range in flight. The zero Inflight is ready for use.
//
// Until the first Begin, Live does nothing. From then on it costs a few
// comparisons and one store, and allocates only to note a live write that hits
// a range in flight; a range of Window bytes notes at most Window/512 runs if
// guests write sectors.
type Inflight struct {
	last uint64
	open []flight
	free []*extent.Set

	// recent holds, by place, the newest live write there; floor counts for
	// all places. Places share slots: that only makes a wait longer.
	recent []dr.Seq
	floor  dr.Seq
}

type flight struct {
	token Token
	live  *extent.Set
}

const (
	recentSlots = 1 << 14 // 16 GiB of disk without sharing, 128 KiB of memory
	// unnumbered stands for "as new as anything".
	unnumbered = ^dr.Seq(0)
	// spreadLimit is how many windows of a long zero or trim are noted one
	// by one.
	spreadLimit = 64
)

// Begin puts r of the disk in flight. last is the newest number handed out.
func (f *Inflight) Begin(disk uint16, r extent.Range, last dr.Seq) Token {
	if f.recent == nil {
		f.recent, f.floor = make([]dr.Seq, recentSlots), last
	}
	f.last++
	t := Token{ID: f.last, Seq: min(last, f.newest(disk, r)), Disk: disk, Range: r}
	live := &extent.Set{}
	if n := len(f.free); n > 0 {
		live, f.free = f.free[n-1], f.free[:n-1]
	}
	f.open = append(f.open, flight{t, live})
	return t
}

// newest returns the newest live write that may have touched r.
func (f *Inflight) newest(disk uint16, r extent.Range) dr.Seq {
	seq := f.floor
	for w := r.Off / Window; w*Window < r.End(); w++ {
		seq = max(seq, f.recent[slot(disk, w)])
	}
	return seq
}

func slot(disk uint16, window int64) int {
	return int((uint64(window) + uint64(disk)*0x9e3779b97f4a7c15) % recentSlots)
}

// Live is LiveAt for callers that do not know the number: comparing that place
// then waits for all that was numbered before.
func (f *Inflight) Live(disk uint16, r extent.Range) { f.LiveAt(unnumbered, disk, r) }

// LiveAt notes that a live write, zero or trim of the guest, numbered seq,
// touches r of the disk. Call it for each one, whatever is in flight.
func (f *Inflight) LiveAt(seq dr.Seq, disk uint16, r extent.Range) {
	if f.recent == nil || r.Empty() || sabotageIgnoreLive {
		return
	}
	if r.Len > spreadLimit*Window {
		f.floor = max(f.floor, seq)
	} else {
		for w := r.Off / Window; w*Window < r.End(); w++ {
			f.recent[slot(disk, w)] = seq
		}
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
