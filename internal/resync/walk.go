package resync

import (
	"context"
	"fmt"
	"sync"

	"rebound/internal/block"
	"rebound/internal/extent"
)

// job is the work of one window: runs of one disk, inside one aligned stretch
// of Window bytes.
type job struct {
	src    int // index into the sources
	window int64
	runs   []extent.Range
}

// hull returns the range from the first to the last byte of the job.
func (j *job) hull() extent.Range {
	first, last := j.runs[0], j.runs[len(j.runs)-1]
	return extent.Range{Off: first.Off, Len: last.End() - first.Off}
}

func (j *job) bytes() int64 {
	var n int64
	for _, r := range j.runs {
		n += r.Len
	}
	return n
}

// plan is the work of all disks and what of it is done. It is safe for
// concurrent use.
type plan struct {
	disks []planDisk

	mu       sync.Mutex
	progress Progress
}

type planDisk struct {
	src  Source
	work []extent.Range // whole blocks, sorted, disjoint
	done []uint64       // one bit a window; guarded by plan.mu
}

func newPlan(sources []Source) (*plan, error) {
	p := &plan{}
	seen := map[uint16]bool{}
	for _, s := range sources {
		if s.Device == nil || seen[s.Index] {
			return nil, fmt.Errorf("plan synchronisation: disk %d has no device or comes twice", s.Index)
		}
		seen[s.Index] = true
		size := s.Device.Size()
		d := planDisk{src: s, done: make([]uint64, (size/Window+64)/64)}
		whole := extent.Range{Len: size}
		if s.Ranges == nil {
			d.work = []extent.Range{whole}
		} else {
			aligned := &extent.Set{}
			for _, r := range s.Ranges.Runs() {
				aligned.Add(r.Align(Block).Intersect(whole))
			}
			d.work = aligned.Runs()
		}
		for _, r := range d.work {
			p.progress.Total += r.Len
		}
		p.disks = append(p.disks, d)
	}
	return p, nil
}

// jobs yields the work that is not done, window by window.
func (p *plan) jobs(yield func(*job) bool) {
	for i := range p.disks {
		d := &p.disks[i]
		for k := 0; k < len(d.work); {
			j := &job{src: i, window: d.work[k].Off / Window}
			k = d.fill(j, k)
			if !p.yieldRest(j, d, &k, yield) {
				return
			}
		}
	}
}

// yieldRest yields j and the further windows of the run that it ends in.
func (p *plan) yieldRest(j *job, d *planDisk, k *int, yield func(*job) bool) bool {
	for {
		if len(j.runs) > 0 && !p.isDone(d, j.window) && !yield(j) {
			return false
		}
		next := (j.window + 1) * Window
		if *k >= len(d.work) || d.work[*k].Off >= next {
			return true
		}
		j = &job{src: j.src, window: j.window + 1}
		*k = d.fill(j, *k)
	}
}

// fill puts the parts of the work from run k on that lie in j's window into j,
// and returns the first run that reaches beyond it.
func (d *planDisk) fill(j *job, k int) int {
	w := extent.Range{Off: j.window * Window, Len: Window}
	for ; k < len(d.work); k++ {
		r := d.work[k]
		if x := r.Intersect(w); !x.Empty() {
			j.runs = append(j.runs, x)
		}
		if r.End() > w.End() {
			return k
		}
	}
	return k
}

func (p *plan) isDone(d *planDisk, window int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return d.done[window/64]&(1<<(window%64)) != 0
}

// finish marks a job as done.
func (p *plan) finish(j *job, sent int64) Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disks[j.src].done[j.window/64] |= 1 << (j.window % 64)
	p.progress.Done += j.bytes()
	p.progress.Sent += sent
	return p.progress
}

func (p *plan) snapshot() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.progress
}

// remaining returns the work that is not done, by disk index.
func (p *plan) remaining() map[uint16]*extent.Set {
	left := make(map[uint16]*extent.Set, len(p.disks))
	for i := range p.disks {
		left[p.disks[i].src.Index] = &extent.Set{}
	}
	p.jobs(func(j *job) bool {
		for _, r := range j.runs {
			left[p.disks[j.src].src.Index].Add(r)
		}
		return true
	})
	return left
}

// zeroMap remembers what a source said reads as zeroes, so that a copy passes
// over large holes without asking about each window. Only a copy may use it: a
// stale "zero" is harmless there, because the standby began empty and gets
// every live write. In a comparison it would overwrite newer data.
type zeroMap struct {
	src   int
	upTo  int64 // what lies before was asked for
	zeros extent.Set
}

// mapSpan is how many bytes are asked about at a time.
const mapSpan = 256 << 20

// covers reports whether all of j reads as zeroes.
func (z *zeroMap) covers(ctx context.Context, dev block.Device, j *job) (bool, error) {
	m, ok := dev.(block.Mapper)
	if !ok {
		return false, nil
	}
	if z.src != j.src {
		*z = zeroMap{src: j.src}
	}
	hull := j.hull()
	for z.upTo < hull.End() {
		if z.upTo < hull.Off {
			z.upTo = hull.Off
			z.zeros.Reset()
		}
		exts, err := m.Extents(ctx, z.upTo, min(mapSpan, dev.Size()-z.upTo))
		if err != nil {
			return false, fmt.Errorf("map source at %d: %w", z.upTo, err)
		}
		before := z.upTo
		for _, e := range exts {
			if e.Zero {
				z.zeros.Add(extent.Range{Off: z.upTo, Len: e.Length})
			}
			z.upTo += e.Length
		}
		if z.upTo <= before {
			return false, fmt.Errorf("map source at %d: the device returned no extent", z.upTo)
		}
	}
	for _, r := range j.runs {
		if len(z.zeros.Outside(r)) > 0 {
			return false, nil
		}
	}
	return true, nil
}
