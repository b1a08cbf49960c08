package spool

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"rebound/internal/dr"
	"rebound/internal/journal/keyring"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// Limits bound what a spool may take of its volume. The zero value of a field
// means its default.
type Limits struct {
	// Bytes is the most that is kept: default 16 GiB; negative keeps nothing.
	Bytes int64
	// FreeBytes stay free on the volume, whatever Bytes says: default 1 GiB;
	// negative leaves nothing.
	FreeBytes int64
	// FileBytes is the size at which a new file is begun: default 64 MiB. A
	// file is deleted as a whole.
	FileBytes int64
}

const (
	defaultBytes     = 16 << 30
	defaultFreeBytes = 1 << 30
	defaultFileBytes = 64 << 20
	// askRoomEvery is how much may be appended before the volume is asked
	// again how much is free.
	askRoomEvery = 64 << 20
	suffix       = ".spool"
)

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = defaultBytes
	}
	if l.FreeBytes == 0 {
		l.FreeBytes = defaultFreeBytes
	}
	if l.FileBytes <= 0 {
		l.FileBytes = defaultFileBytes
	}
	return l
}

// store is the files of a spool. All methods may be called concurrently; append
// and sync are serialised by the caller.
type store struct {
	fs      vfs.FS
	dir     string
	group   uint32
	limits  Limits
	keys    *keyring.Ring
	sealBuf []byte // room for an encrypted frame

	mu    sync.Mutex // guards all below
	gen   dr.Generation
	epoch dr.Epoch // 0: nothing was ever put in
	files []*file  // in order; the last one grows
	next  uint64   // number of the next file
	bytes int64
	room  int64 // that may be appended before the volume is asked again
	// base is the entry before the first that the store ever held of its
	// epoch; base <= delivered <= durable <= appended.
	base, delivered, durable, appended dr.Seq
	sealed                             bool // the newest entry is a break
	failed                             error
	// Where the outlet reads: behind the frames that it has handed out.
	readNumber uint64
	readOff    int64
	moved      chan struct{} // closed at each change
}

// file is one file of the store.
type file struct {
	segment.FileHeader
	f    vfs.File
	path string
	key  *segment.Key // nil: not encrypted
	size int64
}

// openStore takes up what an earlier process left. Everything that is found
// whole counts as durable and as not yet delivered.
func openStore(fsys vfs.FS, dir string, group dr.GroupID, limits Limits, keys *keyring.Wrapping) (*store, error) {
	s := &store{fs: fsys, dir: dir, group: segment.Checksum([]byte(group)), limits: limits.withDefaults(), next: 1, moved: make(chan struct{})}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	var err error
	if s.keys, err = keyring.Open(fsys, dir, keys, false); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	numbers, err := s.numbers()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if err := s.load(n, n == numbers[len(numbers)-1]); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *store) name(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%010d%s", number, suffix))
}

func (s *store) numbers() ([]uint64, error) {
	names, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list spool: %w", err)
	}
	var out []uint64
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, suffix)
		if n, err := strconv.ParseUint(digits, 10, 64); ok && err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// load opens one file. Of the last one the frames are read and a torn tail is
// cut; the others end where the next begins.
func (s *store) load(number uint64, last bool) error {
	path := s.name(number)
	f, err := s.fs.Open(path, false)
	if err != nil {
		return fmt.Errorf("open spool file: %w", err)
	}
	s.next = number + 1
	fl := &file{f: f, path: path}
	err = fl.header(s.group, number)
	if err == nil {
		fl.key, err = s.keys.Key(fl.Key)
	}
	if err != nil {
		_ = f.Close()
		if !last || !segment.NoFrame(err) {
			return fmt.Errorf("open spool file %s: %w", path, err)
		}
		return s.fs.Remove(path) // its header was never synced: nothing in it was
	}
	if len(s.files) == 0 {
		s.gen, s.epoch, s.base = fl.Generation, fl.Epoch, fl.First-1
		s.delivered = s.base
	} else if fl.Epoch != s.epoch || fl.Generation != s.gen {
		_ = f.Close()
		return fmt.Errorf("open spool file %s: %w: it is of another epoch", path, segment.ErrDamaged)
	}
	if fl.size, err = f.Size(); err != nil {
		_ = f.Close()
		return fmt.Errorf("open spool file %s: %w", path, err)
	}
	s.files = append(s.files, fl)
	s.appended = fl.First - 1
	if last {
		if err := s.cutTail(fl); err != nil {
			return err
		}
	}
	s.durable = s.appended
	s.bytes += fl.size
	return nil
}

// cutTail reads a file's frames up to the last whole one and cuts the rest.
func (s *store) cutTail(fl *file) error {
	end := fl.size
	fl.size = segment.FileHeaderSize
	buf := make([]byte, segment.MaxStored)
	for fl.size < end {
		f, err := fl.frame(buf, fl.size, end)
		if err != nil && !segment.NoFrame(err) {
			return fmt.Errorf("read spool file %s: %w", fl.path, err)
		}
		if err != nil || f.First != s.appended+1 {
			break
		}
		s.appended, s.sealed = f.Last(), endsWithBreak(&f)
		fl.size += int64(f.Size)
	}
	if fl.size == end {
		return nil
	}
	err := fl.f.Truncate(fl.size)
	if err == nil {
		err = fl.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("cut spool file %s: %w", fl.path, err)
	}
	return nil
}

func endsWithBreak(f *segment.Frame) bool {
	var last segment.Kind
	for m := range f.Entries() {
		last = m.Kind
	}
	return last == segment.KindBreak
}

// changed tells those who wait; the caller holds mu.
func (s *store) changed() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// poke lets those who wait look again.
func (s *store) poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed()
}

// begin readies the store for the entries of an epoch after a number, and
// returns the last one that it holds: the sender goes on after it.
func (s *store) begin(gen dr.Generation, epoch dr.Epoch, after dr.Seq) (dr.Seq, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return 0, s.failed
	}
	same := gen == s.gen && epoch == s.epoch
	done := s.delivered == s.appended
	switch {
	case same && after <= s.durable && s.durable == s.appended:
		return s.durable, nil
	case !done && !same:
		return 0, problem.New(problem.OperationNotAllowed, "the spool holds undelivered entries of epoch %d", s.epoch)
	case !done:
		return 0, problem.New(problem.JournalDamaged, "the spool ends at entry %d of epoch %d, the stream goes on after %d", s.durable, epoch, after)
	}
	if err := s.empty(); err != nil {
		return 0, err
	}
	s.gen, s.epoch, s.sealed = gen, epoch, false
	s.base, s.delivered, s.durable, s.appended = after, after, after, after
	s.changed()
	return after, nil
}

// empty deletes all files; the caller holds mu.
func (s *store) empty() error {
	had := len(s.files) > 0
	for len(s.files) > 0 {
		if err := s.dropFirst(); err != nil {
			return err
		}
	}
	s.bytes, s.room = 0, 0
	if !had {
		return nil
	}
	// A crash must not bring back what was given up.
	if err := s.fs.SyncDir(s.dir); err != nil {
		return fmt.Errorf("empty spool: %w", err)
	}
	return nil
}

func (s *store) dropFirst() error {
	fl := s.files[0]
	if err := s.fs.Remove(fl.path); err != nil {
		return fmt.Errorf("remove spool file: %w", err)
	}
	_ = fl.f.Close()
	s.bytes -= fl.size
	s.files = s.files[1:]
	return nil
}

// discard forgets everything that is in the store.
func (s *store) discard() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.empty()
	s.gen, s.epoch, s.sealed = 0, 0, false
	s.base, s.delivered, s.durable, s.appended = 0, 0, 0, 0
	s.changed()
	return err
}

// trim notes that the standby has all up to seq, and deletes the files that
// nothing needs any more.
func (s *store) trim(seq dr.Seq) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The standby may have more: what came to it from the ring itself.
	if seq = min(seq, s.appended); seq <= s.delivered {
		return nil
	}
	s.delivered = seq
	s.changed()
	for len(s.files) > 1 && s.files[1].First <= seq+1 {
		if err := s.dropFirst(); err != nil {
			return err
		}
	}
	return nil
}

// close lets go of the files.
func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fl := range s.files {
		_ = fl.f.Close()
	}
	s.files = nil
	if s.failed == nil {
		s.failed = errors.New("spool: closed")
	}
	s.changed()
}
