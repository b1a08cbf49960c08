package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"rebound/internal/extent"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// The sums of a base are a file of its own in the journal's directory: a header
// of one block, then a CRC32C for each block of the disk, little-endian. 0 means
// that the block's sum is not known (content that was there before the journal,
// and was not looked at yet); a block whose CRC32C is 0 has the sum 1.
const (
	sumsDir = "sums"
	// sumBlock is the unit of checking, in bytes. It is the guest's usual
	// block, so that neither a fold nor a read of one block touches others.
	sumBlock = 4096
	// sumWindow is how many sums are read or written at a time.
	sumWindow  = 1024
	sumHeader  = sumBlock
	sumVersion = 1
)

var sumsMagic = [8]byte{'R', 'B', 'S', 'U', 'M', 0, 0, sumVersion}

// sums are the checksums of one base. While a fold writes to the base, and after
// one that did not end, the blocks that it touches are *unsettled*: only redo
// knows their content, and nothing is said about what lies in the base.
type sums struct {
	file vfs.File
	path string
	size int64 // of the disk

	mu        sync.RWMutex
	unsettled *extent.Set
}

func sumsPath(dir string, disk int) string {
	return filepath.Join(dir, sumsDir, fmt.Sprintf("%05d.sum", disk))
}

// sumOf is a block's sum as it is stored.
func sumOf(block []byte) uint32 {
	if s := segment.Checksum(block); s != 0 {
		return s
	}
	return 1
}

// createSums makes the sums of a base of which nothing is known, durably but
// for its name.
func createSums(fsys vfs.FS, path string, size int64) error {
	f, err := fsys.Create(path)
	if err != nil {
		return fmt.Errorf("create sums: %w", err)
	}
	defer f.Close()
	head := make([]byte, sumHeader)
	copy(head, sumsMagic[:])
	binary.LittleEndian.PutUint64(head[8:], uint64(size))
	binary.LittleEndian.PutUint32(head[16:], sumBlock)
	binary.LittleEndian.PutUint32(head[sumHeader-4:], segment.Checksum(head[:sumHeader-4]))
	if _, err = f.WriteAt(head, 0); err == nil {
		err = f.Truncate(sumHeader + 4*blocksOf(size))
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("create sums %s: %w", path, err)
	}
	return nil
}

func blocksOf(size int64) int64 { return (size + sumBlock - 1) / sumBlock }

// makeSums makes the sums of a new journal; what another left goes.
func makeSums(fsys vfs.FS, dir string, sizes []int64) error {
	if err := fsys.MkdirAll(filepath.Join(dir, sumsDir)); err != nil {
		return fmt.Errorf("make sums: %w", err)
	}
	for i, size := range sizes {
		path := sumsPath(dir, i)
		if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make sums: %w", err)
		}
		if err := createSums(fsys, path, size); err != nil {
			return err
		}
	}
	return fsys.SyncDir(filepath.Join(dir, sumsDir))
}

// openSums opens the sums of a disk. A journal that was made before there were
// sums gets empty ones; read only, it has none (nil).
func openSums(fsys vfs.FS, dir string, disk int, size int64, readOnly bool) (*sums, error) {
	path := sumsPath(dir, disk)
	f, err := fsys.Open(path, readOnly)
	if errors.Is(err, fs.ErrNotExist) {
		if readOnly {
			return nil, nil
		}
		if err = fsys.MkdirAll(filepath.Join(dir, sumsDir)); err == nil {
			if err = createSums(fsys, path, size); err == nil {
				err = fsys.SyncDir(filepath.Join(dir, sumsDir))
			}
		}
		if err == nil {
			f, err = fsys.Open(path, false)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open sums: %w", err)
	}
	s := &sums{file: f, path: path, size: size, unsettled: &extent.Set{}}
	if err := s.checkHeader(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

func (s *sums) checkHeader() error {
	head := make([]byte, sumHeader)
	if n, err := s.file.ReadAt(head, 0); n < len(head) {
		return problem.Wrap(err, problem.JournalDamaged, "sums %s end in their header", s.path)
	}
	le := binary.LittleEndian
	if [8]byte(head) != sumsMagic || le.Uint32(head[sumHeader-4:]) != segment.Checksum(head[:sumHeader-4]) ||
		le.Uint64(head[8:]) != uint64(s.size) || le.Uint32(head[16:]) != sumBlock {
		return problem.New(problem.JournalDamaged, "%s does not hold the sums of a base of %d bytes", s.path, s.size)
	}
	return nil
}

// read fills dst with the sums of the blocks from first on.
func (s *sums) read(dst []uint32, first int64) error {
	var raw [4 * sumWindow]byte
	for len(dst) > 0 {
		n := min(len(dst), sumWindow)
		if got, err := s.file.ReadAt(raw[:4*n], sumHeader+4*first); got < 4*n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read sums %s: %w", s.path, err)
		}
		for i := range n {
			dst[i] = binary.LittleEndian.Uint32(raw[4*i:])
		}
		dst, first = dst[n:], first+int64(n)
	}
	return nil
}

// write stores the sums of the blocks from first on.
func (s *sums) write(list []uint32, first int64) error {
	var raw [4 * sumWindow]byte
	for len(list) > 0 {
		n := min(len(list), sumWindow)
		for i, v := range list[:n] {
			binary.LittleEndian.PutUint32(raw[4*i:], v)
		}
		if _, err := s.file.WriteAt(raw[:4*n], sumHeader+4*first); err != nil {
			return fmt.Errorf("write sums %s: %w", s.path, err)
		}
		list, first = list[n:], first+int64(n)
	}
	return nil
}

// forget makes the sums of whole blocks unknown.
func (s *sums) forget(r extent.Range) error {
	first, n := r.Off/sumBlock, blocksOf(r.Len)
	if err := s.file.Zero(sumHeader+4*first, 4*n); err != nil {
		return fmt.Errorf("write sums %s: %w", s.path, err)
	}
	return nil
}

// unsettle marks the blocks of ranges.
func (s *sums) unsettle(r extent.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsettled.Add(r.Align(sumBlock))
}

// settle takes all marks away: the sums on disk are those of the base.
func (s *sums) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsettled.Reset()
}

func (s *sums) isUnsettled(off int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.unsettled.Overlaps(extent.Range{Off: off, Len: sumBlock})
}

// touched returns the marked blocks, as byte ranges within the disk.
func (s *sums) touched() []extent.Range {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.unsettled.Clone().Within(extent.Range{Len: s.size})
}
