package block

import (
	"context"
	"fmt"
	"sync"

	"rebound/internal/extent"
)

// Call names a method of Device.
type Call string

// The calls that a fault can be planned for.
const (
	CallRead   Call = "ReadAt"
	CallWrite  Call = "WriteAt"
	CallZero   Call = "WriteZeroes"
	CallTrim   Call = "Trim"
	CallFlush  Call = "Flush"
	CallExtent Call = "Extents"
)

// Faulty is a Device whose calls fail as planned, for tests:
//
//	f := block.NewFaulty(dev)
//	f.On(block.CallWrite).In(4096, 512).After(2).Times(1).Torn(100, syscall.EIO)
//	…
//	f.AssertFired(t)
//
// The first plan that fits a call and has not been used up decides it.
type Faulty struct {
	Device
	mu    sync.Mutex
	plans []*Fault
}

// Fault is one planned fault; its methods narrow it and return it.
type Fault struct {
	f     *Faulty
	call  Call
	where extent.Range
	all   bool
	skip  int
	times int // -1: for ever
	fired int
	err   error
	torn  int64 // bytes written before the error; -1: none
	hold  <-chan struct{}
}

// NewFaulty returns d without any fault.
func NewFaulty(d Device) *Faulty { return &Faulty{Device: d} }

// On plans a fault for every call of that name, until narrowed. Without Fail,
// Torn or Hold it only counts.
func (f *Faulty) On(c Call) *Fault {
	p := &Fault{f: f, call: c, all: true, times: -1, torn: -1}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans = append(f.plans, p)
	return p
}

func (p *Fault) change(do func()) *Fault {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	do()
	return p
}

// In keeps the fault to calls that touch [off, off+length).
func (p *Fault) In(off, length int64) *Fault {
	return p.change(func() { p.where, p.all = extent.Range{Off: off, Len: length}, false })
}

// After lets the first n fitting calls pass.
func (p *Fault) After(n int) *Fault { return p.change(func() { p.skip = n }) }

// Times ends the fault after n calls.
func (p *Fault) Times(n int) *Fault { return p.change(func() { p.times = n }) }

// Fail makes the call return err without doing anything.
func (p *Fault) Fail(err error) *Fault { return p.change(func() { p.err = err }) }

// Torn makes a write leave its first n bytes on the device and return err.
func (p *Fault) Torn(n int64, err error) *Fault {
	return p.change(func() { p.torn, p.err = n, err })
}

// Hold makes the call wait until release is closed or its context ends.
func (p *Fault) Hold(release <-chan struct{}) *Fault { return p.change(func() { p.hold = release }) }

// Fired returns how many calls the fault has hit.
func (p *Fault) Fired() int {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	return p.fired
}

// Reporter is the part of testing.TB that AssertFired needs.
type Reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

// AssertFired fails the test for every planned fault that did not fire as often
// as planned (at least once where no number was given).
func (f *Faulty) AssertFired(t Reporter) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.plans {
		if p.fired == 0 || p.fired < p.times {
			t.Errorf("planned fault on %s (%+v) fired %d times", p.call, p.where, p.fired)
		}
	}
}

// hit returns what is planned for a call: nil for nothing.
func (f *Faulty) hit(c Call, off, length int64) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.plans {
		fits := p.call == c && (p.all || p.where.Overlaps(extent.Range{Off: off, Len: length}))
		if !fits || p.fired == p.times {
			continue
		}
		if p.skip > 0 {
			p.skip--
			continue
		}
		p.fired++
		copied := *p
		return &copied
	}
	return nil
}

// apply waits and fails as planned; torn is -1 unless the call is to be torn.
func (f *Faulty) apply(ctx context.Context, c Call, off, length int64) (torn int64, err error) {
	p := f.hit(c, off, length)
	if p == nil {
		return -1, nil
	}
	if p.hold != nil {
		select {
		case <-p.hold:
		case <-ctx.Done():
			return -1, ctx.Err()
		}
	}
	if p.err != nil {
		err = fmt.Errorf("planned fault on %s: %w", c, p.err)
	}
	return p.torn, err
}

// ReadAt implements Device.
func (f *Faulty) ReadAt(ctx context.Context, p []byte, off int64) error {
	if _, err := f.apply(ctx, CallRead, off, int64(len(p))); err != nil {
		return err
	}
	return f.Device.ReadAt(ctx, p, off)
}

// WriteAt implements Device.
func (f *Faulty) WriteAt(ctx context.Context, p []byte, off int64) error {
	torn, err := f.apply(ctx, CallWrite, off, int64(len(p)))
	if err != nil {
		if torn > 0 {
			if werr := f.Device.WriteAt(ctx, p[:min(torn, int64(len(p)))], off); werr != nil {
				return werr
			}
		}
		return err
	}
	return f.Device.WriteAt(ctx, p, off)
}

// WriteZeroes implements Device.
func (f *Faulty) WriteZeroes(ctx context.Context, off, length int64) error {
	if _, err := f.apply(ctx, CallZero, off, length); err != nil {
		return err
	}
	return f.Device.WriteZeroes(ctx, off, length)
}

// Trim implements Device.
func (f *Faulty) Trim(ctx context.Context, off, length int64) error {
	if _, err := f.apply(ctx, CallTrim, off, length); err != nil {
		return err
	}
	return f.Device.Trim(ctx, off, length)
}

// Flush implements Device.
func (f *Faulty) Flush(ctx context.Context) error {
	if _, err := f.apply(ctx, CallFlush, 0, f.Size()); err != nil {
		return err
	}
	return f.Device.Flush(ctx)
}

// Extents implements Mapper.
func (f *Faulty) Extents(ctx context.Context, off, length int64) ([]Extent, error) {
	if _, err := f.apply(ctx, CallExtent, off, length); err != nil {
		return nil, err
	}
	return ExtentsOf(ctx, f.Device, off, length)
}
