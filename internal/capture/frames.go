package capture

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"rebound/internal/dr"
	"rebound/internal/link"
	"rebound/internal/segment"
)

const (
	// linger is for how long a frame that is far from full waits for more
	// entries: it costs that much of the recovery point and saves waking
	// the sender for each write.
	linger = 2 * time.Millisecond
	// lingerBelow is the backlog, in bytes, from which nothing waits.
	lingerBelow = 256 << 10
	// collectEntries is how many entries are looked up at a time.
	collectEntries = 512
)

// frameSource cuts one epoch's entries in the ring into frames. It copies each
// entry's data once, into the frame.
type frameSource struct {
	q       *sequencer
	gen     dr.Generation
	epoch   dr.Epoch
	builder *segment.Builder
	codec   atomic.Uint32 // a segment.Codec; of the next frame
	paused  atomic.Bool   // Next says io.EOF though there is more
	scratch []segment.Entry
	timer   *time.Timer
	payload *atomic.Int64 // bytes put into frames
	packed  *atomic.Int64 // bytes of frames
}

var _ link.FrameSource = (*frameSource)(nil)

func newFrameSource(q *sequencer, gen dr.Generation, epoch dr.Epoch, codec segment.Codec, payload, packed *atomic.Int64) *frameSource {
	t := time.NewTimer(time.Hour)
	t.Stop()
	f := &frameSource{
		q: q, gen: gen, epoch: epoch, builder: segment.NewBuilder(codec),
		scratch: make([]segment.Entry, collectEntries), timer: t, payload: payload, packed: packed,
	}
	f.setCodec(codec)
	return f
}

// setCodec changes how the frames that come next are compressed.
func (f *frameSource) setCodec(c segment.Codec) { f.codec.Store(uint32(c)) }

// pause makes Next say io.EOF at the next boundary of a frame, or not any more.
func (f *frameSource) pause(on bool) { f.paused.Store(on) }

func (f *frameSource) pausing() bool { return f.paused.Load() }

// Next implements link.FrameSource.
func (f *frameSource) Next(ctx context.Context, after dr.Seq) ([]byte, dr.Seq, error) {
	if err := f.wait(ctx, after); err != nil {
		return nil, 0, err
	}
	f.builder.Reset(f.gen, f.epoch)
	f.builder.SetCodec(segment.Codec(f.codec.Load()))
	last := after
	for full := false; !full; {
		n := f.q.collect(last+1, f.scratch, segment.MaxPayload-f.builder.Len()+1)
		for i := range f.scratch[:n] {
			if full = !f.builder.Add(f.scratch[i]); full {
				break
			}
			last = f.scratch[i].Seq
		}
		clear(f.scratch[:n])
		full = full || n == 0
	}
	frame, err := f.builder.Finish()
	if err != nil {
		return nil, 0, fmt.Errorf("build frame after %d: %w", after, err)
	}
	f.payload.Add(int64(f.builder.Len()))
	f.packed.Add(int64(len(frame)))
	return frame, last, nil
}

// Trim implements link.FrameSource.
func (f *frameSource) Trim(seq dr.Seq) { f.q.release(seq) }

// wait returns when there is something to send: at once when it is much, else
// after a moment for more to come.
func (f *frameSource) wait(ctx context.Context, after dr.Seq) error {
	for {
		bytes, state := f.q.backlog(after)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case f.pausing():
			return io.EOF
		case bytes >= lingerBelow || (bytes > 0 && state != StateOpen):
			return nil
		case bytes > 0:
			return f.sleep(ctx)
		case state != StateOpen:
			return io.EOF
		}
		select {
		case <-f.q.wake:
		case <-ctx.Done():
		}
	}
}

func (f *frameSource) sleep(ctx context.Context) error {
	f.timer.Reset(linger)
	defer f.timer.Stop()
	select {
	case <-f.timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// backlog returns about how many bytes lie in the ring after an entry: 0 only
// if there is none.
func (q *sequencer) backlog(after dr.Seq) (int64, State) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if after >= q.head {
		return 0, q.state
	}
	var bytes int64
	for seq := max(after, q.durable) + 1; seq <= q.head && bytes < lingerBelow; seq++ {
		bytes += q.at(seq).cost
	}
	return bytes, q.state
}
