package checker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"rebound/internal/lab/image"
	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// ReadDisks reads a guest's ledger off its disks at rest, without starting it.
// Each disk is the path of a raw image, or an nbd:// or nbd+unix:// URI of a
// read-only export, in any order. The file systems' journals are replayed in a
// private copy, as the guest's boot would; the disks are not written to.
func ReadDisks(ctx context.Context, disks ...string) (*ledger.Ledger, error) {
	dir, err := os.MkdirTemp("", "rebound-ledger-")
	if err != nil {
		return nil, fmt.Errorf("make temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	var files [ledger.Files][]byte
	var have [ledger.Files]bool
	for i, disk := range disks {
		path := disk
		if strings.HasPrefix(disk, "nbd") && strings.Contains(disk, "://") {
			path = filepath.Join(dir, fmt.Sprintf("disk%d.img", i))
			if err := run(ctx, "nbdcopy", disk, path); err != nil {
				return nil, err
			}
		}
		n, content, err := readDisk(ctx, dir, path)
		if err != nil {
			return nil, fmt.Errorf("read ledger of %s: %w", disk, err)
		}
		if have[n] {
			return nil, fmt.Errorf("two disks are labelled %s", label(n))
		}
		files[n], have[n] = content, true
	}
	for n, ok := range have {
		if !ok {
			return nil, fmt.Errorf("no disk is labelled %s", label(n))
		}
	}
	return ledger.Parse(files), nil
}

func label(n int) string { return []string{wire.LabelFirst, wire.LabelSecond}[n] }

// readDisk finds the ledger's file system on a disk, replays its journal in a
// copy and reads the ledger's file.
func readDisk(ctx context.Context, dir, path string) (n int, content []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	parts, err := image.Partitions(f)
	if err != nil {
		return 0, nil, err
	}
	for _, p := range parts {
		n, err := ledgerFS(f, p)
		if err != nil {
			return 0, nil, err
		}
		if n < 0 {
			continue
		}
		fs := filepath.Join(dir, label(n)+".ext4")
		if err := copyRange(fs, io.NewSectionReader(f, p.Offset, p.Size)); err != nil {
			return 0, nil, err
		}
		content, err := dumpFile(ctx, fs, wire.LedgerPath)
		return n, content, errors.Join(err, os.Remove(fs))
	}
	return 0, nil, fmt.Errorf("none of its %d partitions holds a ledger", len(parts))
}

// ledgerFS returns which of the ledger's file systems a partition holds, or -1.
// Layout: the ext4 super block lies at 1024, its magic at 0x38, its label at
// 0x78 (Linux Documentation/filesystems/ext4/super.rst).
func ledgerFS(f io.ReaderAt, p image.Partition) (int, error) {
	sb := make([]byte, 1024)
	if p.Size < 2048 {
		return -1, nil
	}
	if _, err := f.ReadAt(sb, p.Offset+1024); err != nil {
		return -1, fmt.Errorf("read super block: %w", err)
	}
	if binary.LittleEndian.Uint16(sb[0x38:]) != 0xef53 {
		return -1, nil
	}
	name := string(bytes.TrimRight(sb[0x78:0x88], "\x00"))
	for n := range ledger.Files {
		if name == label(n) {
			return n, nil
		}
	}
	return -1, nil
}

// dumpFile replays the journal of an ext4 image and reads one file of it; a
// file that does not exist is empty.
func dumpFile(ctx context.Context, fs, name string) ([]byte, error) {
	// e2fsck exits 0 (clean) or 1 (mended: the journal was replayed);
	// anything else means that the file system is damaged.
	var exit *exec.ExitError
	if err := run(ctx, "e2fsck", "-fp", fs); err != nil {
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			return nil, fmt.Errorf("file system is damaged: %w", err)
		}
	}
	out := fs + ".file"
	defer os.Remove(out)
	if err := run(ctx, "debugfs", "-R", "dump /"+name+" "+out, fs); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(out)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read dumped file: %w", err)
	}
	return b, nil
}

func copyRange(path string, r io.Reader) error {
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("copy file system: %w", err)
	}
	_, err = io.Copy(out, r)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy file system: %w", err)
	}
	return nil
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
