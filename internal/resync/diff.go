package resync

import (
	"context"
	"fmt"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/link"
)

// worker handles one window at a time with memory of its own.
type worker struct {
	hasher *hasher
	ask    *redialer // nil for a copy
	epoch  dr.Epoch

	buf    []byte // the window's content, at window-relative offsets
	base   int64  // where buf begins on the disk
	pieces []Piece
	req    link.CompareRequest
	leaves []extent.Range // units that differ so far
	caught bool           // the standby's head view showed all it should
}

func newWorker(h *hasher, ask *redialer, epoch dr.Epoch) *worker {
	return &worker{hasher: h, ask: ask, epoch: epoch, buf: make([]byte, Window)}
}

// at returns the content of r, which was read.
func (w *worker) at(r extent.Range) []byte {
	return w.buf[r.Off-w.base : r.End()-w.base : r.End()-w.base]
}

// read fills the window's memory.
func (w *worker) read(ctx context.Context, dev block.Device, j *job) error {
	w.base = j.window * Window
	for _, r := range j.runs {
		if err := readRun(ctx, dev, w.at(r), r.Off); err != nil {
			return fmt.Errorf("read source at %d: %w", r.Off, err)
		}
	}
	return nil
}

// copyPieces returns what of the window is not zero.
func (w *worker) copyPieces(ctx context.Context, dev block.Device, j *job) ([]Piece, error) {
	if err := w.read(ctx, dev, j); err != nil {
		return nil, err
	}
	w.pieces = w.pieces[:0]
	for _, r := range j.runs {
		for b := range units(r, Block) {
			if data := w.at(b); !allZero(data) {
				w.addPiece(b, false)
			}
		}
	}
	return w.pieces, nil
}

// diffPieces returns what of the window differs from the standby. The window
// is in flight already: what is read now is at least as new as token.Seq.
func (w *worker) diffPieces(ctx context.Context, dev block.Device, j *job, t Token) ([]Piece, error) {
	w.pieces, w.leaves, w.caught = w.pieces[:0], w.leaves[:0], true
	w.req.Disk, w.req.Epoch, w.req.After = t.Disk, w.epoch, t.Seq
	w.req.Runs = w.req.Runs[:0]
	for _, r := range j.runs {
		unit := uint32(Leaf)
		if r.Len <= Leaf {
			unit = Block // one question is enough
		}
		w.req.Runs = append(w.req.Runs, link.CompareRun{Off: r.Off, Len: r.Len, Unit: unit})
	}
	// The standby hashes while the source reads and hashes.
	type answered struct {
		a   link.CompareAnswer
		err error
	}
	asked := make(chan answered, 1)
	askCtx, cancel := context.WithCancel(ctx)
	go func() {
		a, err := w.ask.Hashes(askCtx, &w.req)
		asked <- answered{a, err}
	}()
	rerr := w.read(ctx, dev, j)
	if rerr != nil {
		cancel()
	}
	got := <-asked
	cancel()
	if rerr != nil {
		return nil, rerr
	}
	if got.err != nil {
		return nil, fmt.Errorf("compare with the standby: %w", got.err)
	}
	w.compare(&got.a)
	if len(w.leaves) == 0 {
		return w.pieces, nil
	}
	return w.diffLeaves(ctx)
}

// compare sets the answer beside the own hashes: leaves that differ are kept
// for a second question, blocks that differ become pieces.
func (w *worker) compare(a *link.CompareAnswer) {
	w.caught = w.caught && a.Caught
	theirs := a.Hashes
	for _, run := range w.req.Runs {
		for u := range units(extent.Range{Off: run.Off, Len: run.Len}, int64(run.Unit)) {
			mine := w.hasher.of(w.at(u))
			same := mine == hash(theirs[:link.HashSize])
			theirs = theirs[link.HashSize:]
			switch {
			case same:
			case run.Unit == Leaf && u.Len > Block:
				w.leaves = append(w.leaves, u)
			default:
				w.addPiece(u, allZero(w.at(u)))
			}
		}
	}
}

// diffLeaves compares the blocks of the leaves that differ.
func (w *worker) diffLeaves(ctx context.Context) ([]Piece, error) {
	runs := w.req.Runs[:0]
	for _, r := range w.leaves {
		if n := len(runs); n > 0 && runs[n-1].Off+runs[n-1].Len == r.Off && runs[n-1].Len%Block == 0 {
			runs[n-1].Len += r.Len
			continue
		}
		runs = append(runs, link.CompareRun{Off: r.Off, Len: r.Len, Unit: Block})
	}
	w.req.Runs = runs
	first := w.pieces
	w.pieces = nil
	a, err := w.ask.Hashes(ctx, &w.req)
	if err != nil {
		w.pieces = first[:0]
		return nil, fmt.Errorf("compare with the standby: %w", err)
	}
	w.compare(&a)
	w.pieces = mergePieces(first, w.pieces)
	return w.pieces, nil
}

// mergePieces merges two sorted lists that share no byte.
func mergePieces(a, b []Piece) []Piece {
	if len(a) == 0 {
		return b
	}
	out := make([]Piece, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].Range.Off < b[0].Range.Off {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// addPiece adds a block, or joins it to the piece before.
func (w *worker) addPiece(r extent.Range, zero bool) {
	if n := len(w.pieces); n > 0 {
		p := &w.pieces[n-1]
		joined := extent.Range{Off: p.Range.Off, Len: p.Range.Len + r.Len}
		if p.Range.End() == r.Off && (p.Data == nil) == zero && (zero || joined.Len <= MaxPiece) {
			p.Range = joined
			if !zero {
				p.Data = w.at(joined)
			}
			return
		}
	}
	p := Piece{Range: r}
	if !zero {
		p.Data = w.at(r)
	}
	w.pieces = append(w.pieces, p)
}
