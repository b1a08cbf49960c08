package resync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/link"
	"rebound/internal/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memDisk is a disk in memory that knows which of its blocks are zero.
type memDisk struct {
	mu     sync.RWMutex
	data   []byte
	reads  int64
	onRead func(extent.Range) // after the content was taken, without the lock
}

var (
	_ block.Device = (*memDisk)(nil)
	_ block.Mapper = (*memDisk)(nil)
)

func (d *memDisk) Size() int64 { return int64(len(d.data)) }

func (d *memDisk) ReadAt(_ context.Context, p []byte, off int64) error {
	if err := block.CheckRange(off, int64(len(p)), d.Size()); err != nil {
		return err
	}
	d.mu.Lock()
	copy(p, d.data[off:])
	d.reads += int64(len(p))
	d.mu.Unlock()
	if d.onRead != nil {
		d.onRead(extent.Range{Off: off, Len: int64(len(p))})
	}
	return nil
}

func (d *memDisk) WriteAt(_ context.Context, p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	return nil
}

func (d *memDisk) WriteZeroes(ctx context.Context, off, length int64) error {
	return d.WriteAt(ctx, make([]byte, length), off)
}
func (d *memDisk) Trim(context.Context, int64, int64) error { return nil }
func (d *memDisk) Flush(context.Context) error              { return nil }
func (d *memDisk) Close() error                             { return nil }

// Extents tells zero blocks of 4 KiB from others, a few at a time.
func (d *memDisk) Extents(_ context.Context, off, length int64) ([]block.Extent, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var out []block.Extent
	for end := off + length; off < end && len(out) < 16; {
		n := min(Block-off%Block, end-off)
		out = append(out, block.Extent{Length: n, Zero: allZero(d.data[off : off+n])})
		off += n
	}
	return out, nil
}

func (d *memDisk) clone() *memDisk {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return &memDisk{data: bytes.Clone(d.data)}
}

// liveWrite is one write of a guest, as the model remembers it.
type liveWrite struct {
	disk  uint16
	off   int64
	data  []byte
	began dr.Seq // the stream's head when the source was about to be written
	seq   dr.Seq
}

// refSequencer is the reference implementation of Sequencer: a log in memory.
type refSequencer struct {
	source []*memDisk

	mu       sync.Mutex
	moved    *sync.Cond
	log      []segment.Entry // entry i has seq i+1
	live     []liveWrite
	inflight Inflight
	sealed   bool
	syncing  int64        // bytes of sync entries
	onCommit func(*Piece) // before a piece is numbered, without the lock

	stripes [64]sync.Mutex // serialise overlapping guest writes
}

var _ Sequencer = (*refSequencer)(nil)

func newRefSequencer(source []*memDisk) *refSequencer {
	q := &refSequencer{source: source}
	q.moved = sync.NewCond(&q.mu)
	return q
}

// put appends an entry; the caller holds mu.
func (q *refSequencer) put(e segment.Entry) dr.Seq {
	e.Seq = dr.Seq(len(q.log) + 1)
	q.log = append(q.log, e)
	q.moved.Broadcast()
	return e.Seq
}

func (q *refSequencer) mark(kind segment.Kind) (dr.Seq, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.put(segment.Entry{Kind: kind, Data: []byte("mark")}), nil
}

func (q *refSequencer) BeginSync(context.Context, Mode, int64) (dr.Seq, error) {
	return q.mark(segment.KindSyncBegin)
}

func (q *refSequencer) EndSync(context.Context, int64, int64) (dr.Seq, error) {
	return q.mark(segment.KindSyncEnd)
}

func (q *refSequencer) BeginRange(disk uint16, r extent.Range) Token {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inflight.Begin(disk, r, dr.Seq(len(q.log)))
}

func (q *refSequencer) AbandonRange(t Token) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inflight.End(t)
}

func (q *refSequencer) Untouched(t Token, r extent.Range) []extent.Range {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inflight.Untouched(t, r, nil)
}

func (q *refSequencer) CommitRange(ctx context.Context, t Token, pieces []Piece) (int64, error) {
	defer q.AbandonRange(t)
	var total int64
	for i := range pieces {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		if q.onCommit != nil {
			q.onCommit(&pieces[i])
		}
		total += q.commitPiece(t, &pieces[i])
	}
	return total, nil
}

func (q *refSequencer) commitPiece(t Token, p *Piece) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var total int64
	for _, r := range q.inflight.Untouched(t, p.Range, nil) {
		e := segment.Entry{Kind: segment.KindZero, Flags: segment.FlagSync, Disk: t.Disk, Offset: r.Off, Length: r.Len}
		if p.Data != nil {
			at := r.Off - p.Range.Off
			e.Kind, e.Data = segment.KindWrite, bytes.Clone(p.Data[at:at+r.Len])
		}
		q.put(e)
		total += r.Len
	}
	q.syncing += total
	return total
}

// write is a guest's write as a hypervisor does it: overlapping ones one after
// the other, the source first, then the sequencer. between runs in the middle.
func (q *refSequencer) write(disk uint16, off int64, data []byte, between func()) {
	first, last := off/(16<<10), (off+int64(len(data))-1)/(16<<10)
	for s := range int64(len(q.stripes)) {
		if last-first >= int64(len(q.stripes)) || (s-first%64+64)%64 <= last-first {
			q.stripes[s].Lock()
			defer q.stripes[s].Unlock()
		}
	}
	q.mu.Lock()
	began := dr.Seq(len(q.log))
	q.mu.Unlock()
	if err := q.source[disk].WriteAt(context.Background(), data, off); err != nil {
		panic(err)
	}
	if between != nil {
		between()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	seq := q.put(segment.Entry{Kind: segment.KindWrite, Disk: disk, Offset: off, Data: data})
	q.inflight.LiveAt(seq, disk, extent.Range{Off: off, Len: int64(len(data))})
	q.live = append(q.live, liveWrite{disk, off, data, began, seq})
}

func (q *refSequencer) seal() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sealed = true
	q.moved.Broadcast()
}

// Next implements link.FrameSource over the log.
func (q *refSequencer) next(b *segment.Builder, epoch dr.Epoch, after dr.Seq, limit int) ([]byte, dr.Seq, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for int(after) == len(q.log) && !q.sealed {
		q.moved.Wait()
	}
	if int(after) == len(q.log) {
		return nil, 0, io.EOF
	}
	b.Reset(1, epoch)
	last := after
	for int(last) < len(q.log) && b.Count() < limit && b.Add(q.log[last]) {
		last++
	}
	frame, err := b.Finish()
	return frame, last, err
}

// memStandby is a standby in memory: disks and how far the log is applied.
type memStandby struct {
	disks []*memDisk
	mu    sync.Mutex
	moved *sync.Cond
	seq   dr.Seq
}

func newMemStandby(disks []*memDisk) *memStandby {
	s := &memStandby{disks: disks}
	s.moved = sync.NewCond(&s.mu)
	return s
}

func (s *memStandby) apply(e *segment.Entry) {
	ctx := context.Background()
	switch e.Kind {
	case segment.KindWrite:
		_ = s.disks[e.Disk].WriteAt(ctx, e.Data, e.Offset)
	case segment.KindZero:
		_ = s.disks[e.Disk].WriteZeroes(ctx, e.Offset, e.Length)
	}
	s.mu.Lock()
	s.seq = e.Seq
	s.moved.Broadcast()
	s.mu.Unlock()
}

// disk is what NewStandby wants.
func (s *memStandby) disk(i uint16) (block.Device, error) {
	if int(i) >= len(s.disks) {
		return nil, fmt.Errorf("no disk %d", i)
	}
	return s.disks[i], nil
}

// directAsker asks a Standby without a network, and breaks now and then.
type directAsker struct {
	standby *Standby
	head    *memStandby
	wait    bool // honour After, as the link does
	fail    func() bool
}

var errBroken = errors.New("connection broke")

func (a *directAsker) Hashes(ctx context.Context, req *link.CompareRequest) (link.CompareAnswer, error) {
	if a.fail != nil && a.fail() {
		return link.CompareAnswer{}, errBroken
	}
	if err := req.Validate(); err != nil {
		return link.CompareAnswer{}, err
	}
	if a.wait {
		a.head.mu.Lock()
		for a.head.seq < req.After {
			a.head.moved.Wait()
		}
		a.head.mu.Unlock()
	}
	h, err := a.standby.Hashes(ctx, req, nil)
	if a.fail != nil && a.fail() {
		return link.CompareAnswer{}, errBroken
	}
	return link.CompareAnswer{Caught: a.wait, Hashes: h}, err
}

func (a *directAsker) Close() error { return nil }

// fillRandom fills data with blocks of three kinds: zero, one of a few
// patterns, or random.
func fillRandom(rng *rand.Rand, data []byte) {
	for off := 0; off < len(data); off += Block {
		b := data[off:min(off+Block, len(data))]
		switch rng.IntN(3) {
		case 0:
			clear(b)
		case 1:
			for i := range b {
				b[i] = byte(off >> 16)
			}
		default:
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
		}
	}
}

// drift changes a part of the blocks of a copy of src.
func drift(rng *rand.Rand, src *memDisk, percent int) *memDisk {
	d := src.clone()
	for off := 0; off < len(d.data); off += Block {
		if rng.IntN(100) < percent {
			fillRandom(rng, d.data[off:min(off+Block, len(d.data))])
		}
	}
	return d
}

// diffBlocks returns the bytes of all blocks of 4 KiB that differ.
func diffBlocks(a, b []byte) *extent.Set {
	s := &extent.Set{}
	for off := 0; off < len(a); off += Block {
		end := min(off+Block, len(a))
		if !bytes.Equal(a[off:end], b[off:end]) {
			s.Add(extent.Range{Off: int64(off), Len: int64(end - off)})
		}
	}
	return s
}
