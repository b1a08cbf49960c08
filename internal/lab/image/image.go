// Package image builds the lab's guests: bootable raw disks with boot loader,
// kernel, initramfs, a ledger's file systems and random data, made from Debian
// packages without mounting anything and without root.
//
// What it promises: everything a guest needs is on its disks (and, for UEFI,
// nothing in the variable store); building again with the same Guest gives the
// same partitions and the same random data; what does not depend on the guest
// is kept in the cache directory. The lab's tests and the demo call it.
package image

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"rebound/internal/dr"
	"rebound/internal/lab/wire"
)

const (
	mib = 1 << 20
	// bootMiB holds kernel and initramfs, with room for newer ones. It is
	// FAT16, which needs at least 4085 clusters.
	bootMiB = 48
	// ledgerMiB holds a ledger of about 500000 records, and the journal.
	ledgerMiB = 48
	// DefaultBallastMiB is the random data on every disk.
	DefaultBallastMiB = 256
)

// Config says where a Builder works.
type Config struct {
	// CacheDir keeps packages, kernel, initramfs and boot partitions
	// between runs; empty is the user's cache directory.
	CacheDir string
	// Init is the static binary that becomes /init of the guests. When it
	// is empty it is built from the module at ModuleDir ("" is the working
	// directory's module), package rebound/internal/lab/guest/init.
	Init      string
	ModuleDir string
	Logger    *slog.Logger // nil: discard
}

// Guest describes one guest.
type Guest struct {
	Firmware dr.Firmware
	// Dir gets disk0.img and disk1.img; it is made when missing.
	Dir string
	// BallastMiB is how much random data each disk holds; 0 is
	// DefaultBallastMiB.
	BallastMiB int
	// Seed decides the random data and where the partitions lie.
	Seed uint64
	// UUID is the machine's identity; empty: derived from name and seed.
	UUID string
	// Network is the name of the network that its card is connected to.
	Network string
	// Config is what the guest reads from its first disk; Config.Name names
	// the machine.
	Config wire.GuestConfig
}

// Result is a built guest.
type Result struct {
	// Definition is the machine: 1 CPU, 256 MiB, q35, two virtio disks, one
	// virtio card.
	Definition dr.Definition
	// Disks are the raw images' paths in the order of Definition.Disks.
	Disks []string
	// Ballast says where the random data of each disk lies.
	Ballast []Ballast
}

// Builder builds guests. Its methods may be called concurrently by several
// processes that share a cache directory.
type Builder struct {
	cfg Config
}

// NewBuilder checks the configuration and makes the cache directory.
func NewBuilder(cfg Config) (*Builder, error) {
	if cfg.CacheDir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a cache directory: %w", err)
		}
		cfg.CacheDir = filepath.Join(dir, "rebound-lab")
	}
	var err error
	if cfg.CacheDir, err = filepath.Abs(cfg.CacheDir); err != nil {
		return nil, fmt.Errorf("resolve cache directory: %w", err)
	}
	if err := os.MkdirAll(cfg.CacheDir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache directory: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Builder{cfg: cfg}, nil
}

// Validate checks a guest before anything is written.
func (g Guest) Validate() error {
	if err := dr.ValidName(g.Config.Name); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	if g.Firmware != dr.BIOS && g.Firmware != dr.UEFI {
		return fmt.Errorf("guest %s: firmware %q: want bios or uefi", g.Config.Name, g.Firmware)
	}
	if g.Dir == "" {
		return fmt.Errorf("guest %s: no directory", g.Config.Name)
	}
	if g.BallastMiB < 0 || g.BallastMiB > 1<<20 {
		return fmt.Errorf("guest %s: ballast of %d MiB", g.Config.Name, g.BallastMiB)
	}
	return nil
}

// Build makes the guest's disks, replacing what is at their paths.
func (b *Builder) Build(ctx context.Context, g Guest) (*Result, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if g.BallastMiB == 0 {
		g.BallastMiB = DefaultBallastMiB
	}
	boot, err := b.bootPartition(ctx, g.Firmware)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(g.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make guest directory: %w", err)
	}
	r := &Result{}
	for i := range 2 {
		d, err := newLayout(g, i)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(g.Dir, fmt.Sprintf("disk%d.img", i))
		if err := b.buildDisk(ctx, g, d, path, boot); err != nil {
			return nil, fmt.Errorf("build %s: %w", path, err)
		}
		r.Disks = append(r.Disks, path)
		r.Ballast = append(r.Ballast, d.ballast())
	}
	r.Definition, err = definition(g, r.Disks)
	return r, err
}

// buildDisk writes one disk: table, boot partition (first disk only), file
// system and ballast.
func (b *Builder) buildDisk(ctx context.Context, g Guest, d layout, path, boot string) (err error) {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove old image: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(d.size); err != nil {
		return fmt.Errorf("size image: %w", err)
	}
	if d.boot.Size > 0 {
		if err := copySparse(f, d.boot.Offset, boot); err != nil {
			return err
		}
	}
	if err := d.writeTable(f); err != nil {
		return err
	}
	if err := b.makeFS(ctx, g, d, path); err != nil {
		return err
	}
	return d.ballast().write(f)
}

// makeFS makes the disk's ext4 file system; the first disk's holds the guest's
// configuration.
func (b *Builder) makeFS(ctx context.Context, g Guest, d layout, path string) error {
	args := []string{
		"-F", "-q", "-L", d.label, "-U", d.fsUUID, "-b", "4096", "-m", "0",
		// Nothing is left for the guest to initialise in the background.
		"-J", "size=4", "-O", "^resize_inode",
		"-E", fmt.Sprintf("offset=%d,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,hash_seed=%s", d.fs.Offset, d.fsUUID),
	}
	if d.index == 0 {
		dir, err := os.MkdirTemp("", "rebound-guest-")
		if err != nil {
			return fmt.Errorf("make temporary directory: %w", err)
		}
		defer os.RemoveAll(dir)
		conf, err := json.MarshalIndent(g.Config, "", "  ")
		if err != nil {
			return fmt.Errorf("marshal guest configuration: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, wire.ConfigPath), conf, 0o600); err != nil {
			return fmt.Errorf("write guest configuration: %w", err)
		}
		args = append(args, "-d", dir)
	}
	args = append(args, path, fmt.Sprintf("%dk", d.fs.Size/1024))
	return run(ctx, "mkfs.ext4", args...)
}

// definition describes the machine that the disks belong to.
func definition(g Guest, disks []string) (dr.Definition, error) {
	random := newRandom(g.Seed, g.Config.Name+"/machine")
	id := g.UUID
	if id == "" {
		id = randomUUID(random)
	}
	var mac [3]byte
	fill(random, mac[:])
	def := dr.Definition{
		Name: dr.MachineName(g.Config.Name), UUID: id, CPUs: 1, MemoryMiB: 256,
		Firmware: g.Firmware, MachineType: "q35",
		NICs: []dr.NIC{{MAC: "52:54:00:" + hexColons(mac[:]), Network: g.Network, Model: "virtio-net-pci"}},
	}
	for i, path := range disks {
		st, err := os.Stat(path)
		if err != nil {
			return def, fmt.Errorf("stat disk: %w", err)
		}
		def.Disks = append(def.Disks, dr.DiskSpec{
			ID: dr.DiskID(fmt.Sprintf("disk%d", i)), Bus: "virtio",
			Serial: fmt.Sprintf("%s-%d", g.Config.Name, i), SizeBytes: st.Size(),
		})
	}
	return def, nil
}

func hexColons(b []byte) string {
	s := ""
	for i := range b {
		if i > 0 {
			s += ":"
		}
		s += hex.EncodeToString(b[i : i+1])
	}
	return s
}
