package journal

import (
	"errors"
	"fmt"
	"io"

	"rebound/internal/extent"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
)

// base is the raw file that a disk's redo stands on.
type base struct {
	file vfs.File
	path string
	size int64
	sums *sums // nil: a read-only journal from before there were sums
}

func openBase(fsys vfs.FS, path string, size int64, readOnly, lock bool) (*base, error) {
	f, err := fsys.Open(path, readOnly)
	if err != nil {
		return nil, fmt.Errorf("open base: %w", err)
	}
	b := &base{file: f, path: path, size: size}
	have, err := f.Size()
	if err == nil && have < size {
		err = problem.New(problem.JournalDamaged, "base %s has %d bytes, its disk %d", path, have, size)
	}
	if err == nil && lock {
		if err = f.LockImage(); errors.Is(err, vfs.ErrLocked) {
			err = problem.Wrap(err, problem.MachineInUse, "base %s is open in a hypervisor or another process", path)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

// close lets go of the files.
func (b *base) close() {
	_ = b.file.Close()
	if b.sums != nil {
		_ = b.sums.file.Close()
	}
}

// raw reads without checking.
func (b *base) raw(p []byte, off int64) error {
	n, err := b.file.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read base %s at %d: %w", b.path, off, err)
}

// readAt reads and checks every block that it touches.
func (b *base) readAt(p []byte, off int64) error {
	if b.sums == nil {
		return b.raw(p, off)
	}
	for len(p) > 0 {
		if in := off % sumBlock; in != 0 || int64(len(p)) < b.blockLen(off) {
			n := min(int64(len(p)), b.blockLen(off-in)-in)
			if err := b.readPart(p[:n], off-in, in); err != nil {
				return err
			}
			p, off = p[n:], off+n
			continue
		}
		n := min(int64(len(p)), sumWindow*sumBlock)
		if off+n < b.size {
			n -= n % sumBlock
		}
		if err := b.readBlocks(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// blockLen returns how long the block at a multiple of sumBlock is.
func (b *base) blockLen(off int64) int64 { return min(sumBlock, b.size-off) }

// readPart reads a part of one block, by way of the whole.
func (b *base) readPart(p []byte, block, in int64) error {
	var whole [sumBlock]byte
	n := b.blockLen(block)
	if err := b.readBlocks(whole[:n], block); err != nil {
		return err
	}
	copy(p, whole[in:])
	return nil
}

// readBlocks reads whole blocks, at most sumWindow, and checks them.
func (b *base) readBlocks(p []byte, off int64) error {
	if err := b.raw(p, off); err != nil {
		return err
	}
	var few [16]uint32
	n := blocksOf(int64(len(p)))
	want := few[:min(n, int64(len(few)))]
	if n > int64(len(few)) {
		want = make([]uint32, n)
	}
	if err := b.sums.read(want, off/sumBlock); err != nil {
		return err
	}
	for i, sum := range want {
		at := int64(i) * sumBlock
		block := p[at:min(at+sumBlock, int64(len(p)))]
		if sum == 0 || sum == sumOf(block) {
			continue
		}
		if err := b.lookAgain(block, off+at); err != nil {
			return err
		}
	}
	return nil
}

// lookAgain decides about a block that did not match: a fold may have written it
// between the reading of the block and that of its sum.
func (b *base) lookAgain(block []byte, off int64) error {
	const tries = 3
	for range tries {
		if b.sums.isUnsettled(off) {
			return nil // what the caller needs of it, no fold touches
		}
		if err := b.raw(block, off); err != nil {
			return err
		}
		var sum [1]uint32
		if err := b.sums.read(sum[:], off/sumBlock); err != nil {
			return err
		}
		if sum[0] == 0 || sum[0] == sumOf(block) {
			return nil
		}
	}
	return problem.New(problem.JournalDamaged, "%d bytes at %d of base %s are not what was written there", len(block), off, b.path)
}

// partial returns the blocks of which the pieces, which are in order, cover only
// a part.
func partial(pieces []piece, size int64) []int64 {
	var out []int64
	covered, at := int64(0), int64(-1)
	end := func() {
		if at >= 0 && covered > 0 && covered < min(sumBlock, size-at) {
			out = append(out, at)
		}
	}
	for i := range pieces {
		for off := pieces[i].off; off < pieces[i].end(); {
			block := off - off%sumBlock
			if block != at {
				end()
				at, covered = block, 0
			}
			if off == block && pieces[i].end()-off >= 2*sumBlock { // whole ones in the middle
				off = pieces[i].end() - pieces[i].end()%sumBlock
				covered, at = 0, -1
				continue
			}
			n := min(pieces[i].end(), block+sumBlock) - off
			covered += n
			off += n
		}
	}
	end()
	return out
}

// checkPartial looks at blocks of which a fold overwrites only a part: rot in the
// rest must not be blessed by the sum of the whole. It returns the damaged ones.
func (b *base) checkPartial(pieces []piece) (map[int64]bool, error) {
	var bad map[int64]bool
	if b.sums == nil {
		return nil, nil
	}
	buf := make([]byte, sumBlock)
	for _, off := range partial(pieces, b.size) {
		err := b.readBlocks(buf[:b.blockLen(off)], off)
		if problem.HasCode(err, problem.JournalDamaged) {
			if bad == nil {
				bad = map[int64]bool{}
			}
			bad[off] = true
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return bad, nil
}

// sumTouched writes the sums of all unsettled blocks from what the base holds
// now. A block in bad keeps a sum that it does not have; of one in unknown, and
// of holes, the sum is not known.
func (b *base) sumTouched(bad, unknown map[int64]bool) error {
	if b.sums == nil {
		return nil
	}
	for _, r := range b.sums.touched() {
		for off := r.Off; off < r.End(); {
			start, end, err := b.file.NextData(off)
			if err != nil {
				return fmt.Errorf("map base %s: %w", b.path, err)
			}
			hole := min(start-start%sumBlock, r.End())
			if start >= end {
				hole = r.End()
			}
			if hole > off {
				if err := b.sums.forget(extent.Range{Off: off, Len: hole - off}); err != nil {
					return err
				}
				off = hole
				continue
			}
			n := min(64*sumBlock, r.End()-off)
			if err := b.sumRange(off, n, bad, unknown); err != nil {
				return err
			}
			off += n
		}
	}
	if err := b.sums.file.Datasync(); err != nil {
		return fmt.Errorf("sync sums %s: %w", b.sums.path, err)
	}
	return nil
}

// sumRange writes the sums of at most 64 blocks.
func (b *base) sumRange(off, n int64, bad, unknown map[int64]bool) error {
	buf := make([]byte, n)
	if err := b.raw(buf, off); err != nil {
		return err
	}
	list := make([]uint32, blocksOf(n))
	for i := range list {
		at := int64(i) * sumBlock
		list[i] = sumOf(buf[at:min(at+sumBlock, n)])
		switch {
		case bad[off+at]:
			list[i] = max(^list[i], 1)
		case unknown[off+at]:
			list[i] = 0
		}
	}
	return b.sums.write(list, off/sumBlock)
}

// unsettleAll marks what the pieces touch.
func (b *base) unsettleAll(pieces []piece) {
	if b.sums == nil {
		return
	}
	for i := range pieces {
		b.sums.unsettle(extent.Range{Off: pieces[i].off, Len: pieces[i].len})
	}
}
