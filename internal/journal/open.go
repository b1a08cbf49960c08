package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"rebound/internal/dr"
	"rebound/internal/journal/keyring"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// Journal is an open journal. All methods may be called concurrently.
//
// Locks, in the order in which they are taken: foldMu, appendMu, syncMu, then
// one of mu and the manifest's. Readers of views take none of them.
type Journal struct {
	dir      string
	fs       vfs.FS
	log      *slog.Logger
	opts     Options
	readOnly bool
	lock     vfs.Unlocker
	man      *manifestStore
	disks    []dr.GroupDisk
	bases    []*base
	groupSum uint32
	reserve  int64 // negative: none
	keys     *keyring.Ring
	cache    *frameCache
	grew     chan struct{} // something was appended

	foldMu sync.Mutex // one fold, prune or release at a time

	appendMu    sync.Mutex // one writer; guards the two below
	nextSegment uint64
	sealed      []byte // room for an encrypted frame
	roomLeft    int64  // that may be appended before the volume is asked again

	full atomic.Bool // the newest frame found no room

	syncMu sync.Mutex // one sync at a time

	mu         sync.Mutex // guards all below
	gen        dr.Generation
	head       dr.Position // appended
	durable    dr.Position
	ended      bool // a break was appended: the epoch takes no more
	segs       []*segmentFile
	active     *segmentFile // the last of segs while it grows, or nil
	heads      []*runMap    // of each disk: everything after the anchor
	lastData   []dr.Position
	hist       history
	waiting    []control // appended, not durable
	bytes      int64     // of guest writes appended
	synced     bool
	floor      dr.Position   // the lowest position that may still be opened
	ends       []dr.Position // set: the only positions that may be opened, by disk
	views      map[*viewDevice]struct{}
	damage     error // redo is missing: views beyond damageAt refuse
	damageAt   dr.Position
	lostPoints []dr.Point // known to lie behind the damage
	stale      int64
	failed     error
	closed     bool
}

func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.FoldBatchBytes == 0 {
		o.FoldBatchBytes = defaultFoldBatchBytes
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 2*o.FoldBatchBytes + manifestReserve
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.SegmentBytes < 0 || o.SegmentBytes > 2<<30 || o.FoldBatchBytes < 0 || o.FoldBatchBytes > maxFoldBatchBytes {
		return o, fmt.Errorf("journal options: segment %d, fold batch %d bytes: out of range", o.SegmentBytes, o.FoldBatchBytes)
	}
	return o, nil
}

func (c *Config) validate() error {
	if c.Group == "" || c.Generation == 0 || len(c.Disks) == 0 || len(c.Disks) > 1<<16 || len(c.Disks) != len(c.BasePaths) || c.RedoWindow < 0 {
		return problem.New(problem.InvalidRequest, "a journal needs a group, a generation and one base for each of 1 to 65536 disks")
	}
	for i, d := range c.Disks {
		if d.SizeBytes <= 0 || d.SizeBytes%512 != 0 {
			return problem.New(problem.DiskNotSupported, "disk %s of %s has %d bytes", d.Disk, d.Machine, d.SizeBytes)
		}
		if !filepath.IsAbs(c.BasePaths[i]) {
			return problem.New(problem.InvalidRequest, "base %q is not an absolute path", c.BasePaths[i])
		}
	}
	return nil
}

// Create makes a journal in dir, which must not hold one, and opens it.
func Create(ctx context.Context, dir string, cfg Config, opts Options) (*Journal, error) {
	opts, err := opts.withDefaults()
	if err == nil {
		err = cfg.validate()
	}
	if err != nil {
		return nil, err
	}
	m, err := cfg.manifest(opts.Now())
	if err != nil {
		return nil, err
	}
	if err := opts.FS.MkdirAll(filepath.Join(dir, redoDir)); err != nil {
		return nil, fmt.Errorf("make journal: %w", err)
	}
	lock, err := lockDir(opts.FS, dir, false)
	if err != nil {
		return nil, err
	}
	if f, err := opts.FS.Open(filepath.Join(dir, manifestName), true); err == nil {
		f.Close()
		_ = lock.Unlock()
		return nil, problem.New(problem.NameTaken, "%s holds a journal already", dir)
	}
	err = clearRedo(opts.FS, dir)
	if err == nil {
		err = makeBases(opts.FS, &cfg)
	}
	if err == nil {
		err = makeSums(opts.FS, dir, cfg.sizes())
	}
	if err == nil {
		store := &manifestStore{fs: opts.FS, path: filepath.Join(dir, manifestName)}
		err = store.write(&m)
	}
	if uerr := lock.Unlock(); err == nil {
		err = uerr
	}
	if err != nil {
		return nil, fmt.Errorf("create journal in %s: %w", dir, err)
	}
	return Open(ctx, dir, opts)
}

// manifest returns the first one.
func (c *Config) manifest(now time.Time) (manifest, error) {
	at := dr.Position{Generation: c.Generation}
	m := manifest{
		Group: c.Group, Owner: ownerJournal, Generation: c.Generation, Disks: c.Disks, BasePaths: c.BasePaths,
		RedoWindow: c.RedoWindow, Created: now.UTC(), Seeded: c.Seeded, FirstSegment: 1,
		Anchor: anchor{Position: at},
	}
	if m.RedoWindow == 0 {
		m.RedoWindow = DefaultRedoWindow
	}
	for _, d := range c.Definitions {
		b, err := json.Marshal(d)
		if err != nil {
			return m, fmt.Errorf("encode definition of %s: %w", d.Name, err)
		}
		m.Anchor.Definitions = append(m.Anchor.Definitions, machineVersion{d.Name, at, b})
	}
	return m, nil
}

// sizes returns the disks' sizes, in bytes.
func (c *Config) sizes() []int64 {
	out := make([]int64, len(c.Disks))
	for i, d := range c.Disks {
		out[i] = d.SizeBytes
	}
	return out
}

// clearRedo removes what a Create that did not end may have left.
func clearRedo(fsys vfs.FS, dir string) error {
	numbers, err := segmentNumbers(fsys, dir)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if err := fsys.Remove(segmentName(dir, n)); err != nil {
			return err
		}
	}
	return nil
}

// makeBases makes the missing bases, durably.
func makeBases(fsys vfs.FS, c *Config) error {
	for i, path := range c.BasePaths {
		f, err := fsys.Open(path, false)
		if errors.Is(err, fs.ErrNotExist) {
			f, err = createBase(fsys, path)
		}
		if err != nil {
			return fmt.Errorf("open base: %w", err)
		}
		err = fitBase(f, c.Disks[i].SizeBytes)
		f.Close()
		if err != nil {
			return fmt.Errorf("make base %s: %w", path, err)
		}
		if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
			return fmt.Errorf("make base %s: %w", path, err)
		}
	}
	return nil
}

func createBase(fsys vfs.FS, path string) (vfs.File, error) {
	if err := fsys.MkdirAll(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return fsys.Create(path)
}

// fitBase grows a base to the disk's size.
func fitBase(f vfs.File, want int64) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > want {
		return problem.New(problem.DiskNotSupported, "the base has %d bytes, the disk %d", size, want)
	}
	if size < want {
		if err := f.Truncate(want); err != nil {
			return err
		}
	}
	return f.Sync()
}

func lockDir(fsys vfs.FS, dir string, shared bool) (vfs.Unlocker, error) {
	l, err := fsys.Lock(filepath.Join(dir, "lock"), shared)
	if errors.Is(err, vfs.ErrLocked) {
		return nil, problem.Wrap(err, problem.JournalInUse, "another process has %s open", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock journal: %w", err)
	}
	return l, nil
}

// Open opens a journal for the one process that owns it. A torn tail is cut at
// the last whole frame.
func Open(ctx context.Context, dir string, opts Options) (*Journal, error) {
	return open(ctx, dir, opts, false)
}

// OpenReadOnly opens a journal that nobody owns; it changes nothing on disk.
func OpenReadOnly(ctx context.Context, dir string, opts Options) (*Journal, error) {
	return open(ctx, dir, opts, true)
}

func open(ctx context.Context, dir string, opts Options, readOnly bool) (*Journal, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := loadManifest(opts.FS, dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	lock, err := lockDir(opts.FS, dir, readOnly)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir: dir, fs: opts.FS, log: opts.Logger, opts: opts, readOnly: readOnly, lock: lock,
		reserve: opts.ReserveBytes, groupSum: segment.Checksum([]byte(m.Group)),
		cache: newFrameCache(frameCacheBytes), grew: make(chan struct{}, 1), views: map[*viewDevice]struct{}{},
	}
	if err := j.start(ctx); err != nil {
		j.letGo()
		return nil, fmt.Errorf("open journal %s: %w", dir, err)
	}
	return j, nil
}

// start takes the journal over and reads its state.
func (j *Journal) start(ctx context.Context) error {
	m, err := loadManifest(j.fs, j.dir) // again, under the lock
	if err != nil {
		return err
	}
	if m.Owner != ownerJournal {
		return problem.New(problem.JournalInUse, "the bases belong to a machine since the commit")
	}
	if j.keys, err = keyring.Open(j.fs, j.dir, j.opts.Keys, j.readOnly); err != nil {
		return err
	}
	j.disks = m.Disks
	for i, path := range m.BasePaths {
		b, err := openBase(j.fs, path, m.Disks[i].SizeBytes, j.readOnly, !j.opts.NoImageLocks && !j.readOnly)
		if err != nil {
			return err
		}
		j.bases = append(j.bases, b)
		if b.sums, err = openSums(j.fs, j.dir, i, b.size, j.readOnly); err != nil {
			return err
		}
		j.heads = append(j.heads, newRunMap())
		j.lastData = append(j.lastData, dr.Position{})
	}
	j.man = &manifestStore{fs: j.fs, path: filepath.Join(j.dir, manifestName), now: m}
	if !j.readOnly {
		m.OwnerEpoch++
		if err := j.man.write(&m); err != nil {
			return err
		}
		j.man.now = m
	}
	j.gen = m.Generation
	j.floor, j.ends = m.Anchor.Position, m.Ends
	if m.Folding != nil {
		j.floor = m.Folding.To
	}
	j.hist.restore(&m.Anchor)
	if err := j.recover(ctx, &m); err != nil {
		return err
	}
	return j.unsettle(ctx, m.Folding)
}

// unsettle marks what a fold that did not end has touched.
func (j *Journal) unsettle(ctx context.Context, f *folding) error {
	if f == nil {
		return nil
	}
	plan := j.planRedo(f.From, f.To)
	defer plan.release()
	for disk, b := range j.bases {
		m, err := plan.build(ctx, uint16(disk))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // that redo is damaged: nothing is known of the base
			j.log.Warn("the blocks that a fold has touched are not known", "disk", disk, "error", err)
			b.unsettleAll([]piece{{len: b.size}})
			continue
		}
		b.unsettleAll(m.pieces())
	}
	return nil
}

// letGo closes all files and the lock.
func (j *Journal) letGo() {
	for _, s := range j.segs {
		s.release()
	}
	for _, b := range j.bases {
		b.close()
	}
	if j.lock != nil {
		_ = j.lock.Unlock()
	}
	j.segs, j.bases, j.lock = nil, nil, nil
}

// Close syncs what was appended and lets go of the directory and the bases.
// Views that are open fail from then on.
func (j *Journal) Close() error {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	var err error
	if uerr := j.usable(); uerr == nil {
		_, err = j.Sync()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	j.letGo()
	return err
}
