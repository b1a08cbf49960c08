package vfs

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory. Crash throws a random choice of what was not
// synced away: of each file any subset of its writes since the last sync, each
// cut into sectors; of the names a random suffix of the changes (file systems
// keep their order). With Hook every write and sync can be made to fail.
type Mem struct {
	mu    sync.Mutex
	names map[string]*inode // as the process sees them
	disk  map[string]*inode // as they would be found
	queue []nameOp          // from disk to names
	locks map[string]int    // -1 exclusive, else how many share
	free  int64
	used  int64
	life  int // crashes so far: handles of an earlier life are dead

	// Hook is called before each operation that changes something or makes
	// it durable ("write", "zero", "truncate", "sync", "rename", "remove",
	// "create", "syncdir"); its error is the operation's. It is set before use.
	Hook func(op, name string) error
}

var _ FS = (*Mem)(nil)

const sector = 512

type nameOp struct {
	name string
	node *inode // nil: removed
}

type inode struct {
	now     []byte
	disk    []byte
	pending []change
}

// change is a write of one sector or less, or a new size.
type change struct {
	off  int64
	data []byte
	size int64 // of a truncation, else -1
}

// NewMem returns an empty Mem with room for free bytes (0: no limit).
func NewMem(free int64) *Mem {
	return &Mem{names: map[string]*inode{}, disk: map[string]*inode{}, locks: map[string]int{}, free: free}
}

// SetRoom changes the room to free bytes beyond what is used now.
func (m *Mem) SetRoom(free int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = m.used + free
}

// Crash ends this life of the machine. All open files and locks are dead.
func (m *Mem) Crash(r *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life++
	m.locks = map[string]int{}
	for _, op := range m.queue[:r.IntN(len(m.queue)+1)] {
		m.applyName(op)
	}
	m.queue = nil
	m.names = map[string]*inode{}
	m.used = 0
	var names []string
	for name := range m.disk {
		names = append(names, name)
	}
	slices.Sort(names) // the same seed, the same crash
	for _, name := range names {
		node := m.disk[name].crash(r)
		m.disk[name], m.names[name] = node, node
		m.used += int64(len(node.now))
	}
}

func (m *Mem) applyName(op nameOp) {
	if op.node == nil {
		delete(m.disk, op.name)
		return
	}
	m.disk[op.name] = op.node
}

// crash returns the file as it is found after a crash.
func (n *inode) crash(r *rand.Rand) *inode {
	keep := r.Float64() // of this file's sectors
	for _, c := range n.pending {
		if r.Float64() < keep {
			n.disk = c.apply(n.disk)
		}
	}
	return &inode{now: slices.Clone(n.disk), disk: n.disk}
}

func (c change) apply(b []byte) []byte {
	if c.size >= 0 {
		return resize(b, c.size)
	}
	if end := c.off + int64(len(c.data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[c.off:], c.data)
	return b
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		clear(b[size:])
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func (m *Mem) hook(op, name string) error {
	if m.Hook == nil {
		return nil
	}
	return m.Hook(op, name)
}

// Open opens a file that exists.
func (m *Mem) Open(name string, readOnly bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	if node == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memFile{m: m, node: node, name: name, readOnly: readOnly, life: m.life}, nil
}

// Create makes a file that must not exist.
func (m *Mem) Create(name string) (File, error) {
	if err := m.hook("create", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	node := &inode{}
	m.setName(name, node)
	return &memFile{m: m, node: node, name: name, life: m.life}, nil
}

func (m *Mem) setName(name string, node *inode) {
	if node == nil {
		delete(m.names, name)
	} else {
		m.names[name] = node
	}
	m.queue = append(m.queue, nameOp{name, node})
}

// Rename replaces to by from.
func (m *Mem) Rename(from, to string) error {
	if err := m.hook("rename", to); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[from]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	m.setName(to, node)
	m.setName(from, nil)
	return nil
}

// Remove removes a file.
func (m *Mem) Remove(name string) error {
	if err := m.hook("remove", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	if node == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.used -= int64(len(node.now))
	m.setName(name, nil)
	return nil
}

// MkdirAll does nothing: directories are there.
func (m *Mem) MkdirAll(string) error { return nil }

// ReadDir returns the sorted names in dir.
func (m *Mem) ReadDir(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]bool{}
	var names []string
	for name := range m.names {
		if rest, ok := strings.CutPrefix(name, strings.TrimSuffix(dir, "/")+"/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			if !seen[first] {
				seen[first] = true
				names = append(names, first)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir makes the names in dir durable.
func (m *Mem) SyncDir(dir string) error {
	if err := m.hook("syncdir", dir); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var rest []nameOp
	for _, op := range m.queue {
		if filepath.Dir(op.name) == filepath.Clean(dir) {
			m.applyName(op)
		} else {
			rest = append(rest, op)
		}
	}
	m.queue = rest
	return nil
}

// Free returns what is left of the room.
func (m *Mem) Free(string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.free == 0 {
		return 1 << 50, nil
	}
	return max(0, m.free-m.used), nil
}

// Lock locks a name.
func (m *Mem) Lock(name string, shared bool) (Unlocker, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.locks[name]
	if have < 0 || (have > 0 && !shared) {
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	if shared {
		m.locks[name]++
	} else {
		m.locks[name] = -1
	}
	return &memLock{m: m, name: name, shared: shared, life: m.life}, nil
}

type memLock struct {
	m      *Mem
	name   string
	shared bool
	life   int
	gone   bool
}

func (l *memLock) Unlock() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.gone || l.life != l.m.life {
		return nil
	}
	l.gone = true
	if l.shared {
		l.m.locks[l.name]--
	} else {
		l.m.locks[l.name] = 0
	}
	return nil
}

// room accounts for a file that grows, and says ENOSPC.
func (m *Mem) room(grow int64) error {
	if m.free != 0 && grow > 0 && m.used+grow > m.free {
		return syscall.ENOSPC
	}
	m.used += grow
	return nil
}
