package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// Format of an exported image.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// ExportRequest says what to export.
type ExportRequest struct {
	Selector dr.PointSelector
	Machine  dr.MachineName // may be empty when the group has one
	Disk     dr.DiskID      // may be empty when the machine has one
	Out      string         // must not exist
	Format   Format
	// Progress gets done and total bytes; may be nil.
	Progress func(done, total int64)
}

// Export writes one disk at one moment into an image file. It needs nothing
// but the journal's directory and its bases, and works on a journal whose owner
// has crashed; one that is open is refused with JournalInUse. qcow2 is made by
// qemu-img from a sparse raw file beside it.
func Export(ctx context.Context, dir string, r ExportRequest, opts Options) (Resolved, error) {
	if r.Format != Raw && r.Format != QCOW2 {
		return Resolved{}, problem.New(problem.InvalidRequest, "format %q: want raw or qcow2", r.Format)
	}
	j, err := OpenReadOnly(ctx, dir, opts)
	if err != nil {
		return Resolved{}, err
	}
	defer j.Close()
	res, err := j.Resolve(r.Selector)
	if err != nil {
		return Resolved{}, err
	}
	disk, err := j.FindDisk(r.Machine, r.Disk)
	if err != nil {
		return Resolved{}, err
	}
	dev, err := j.OpenView(ctx, res.Position, disk)
	if err != nil {
		return Resolved{}, err
	}
	defer dev.Close()
	if r.Format == Raw {
		return res, writeRaw(ctx, dev, r.Out, r.Progress)
	}
	temp := r.Out + ".raw.tmp"
	if _, err := os.Lstat(r.Out); err == nil {
		return res, problem.New(problem.NameTaken, "%s exists", r.Out)
	}
	defer os.Remove(temp)
	if err := writeRaw(ctx, dev, temp, r.Progress); err != nil {
		return res, err
	}
	return res, convert(ctx, temp, r.Out)
}

// FindDisk returns the index of a disk in the group's table. Names may be left
// out where only one fits.
func (j *Journal) FindDisk(machine dr.MachineName, disk dr.DiskID) (uint16, error) {
	found := -1
	for i, d := range j.disks {
		if (machine != "" && d.Machine != machine) || (disk != "" && d.Disk != disk) {
			continue
		}
		if found >= 0 {
			return 0, problem.New(problem.InvalidRequest, "several disks fit: name machine and disk")
		}
		found = i
	}
	if found < 0 {
		return 0, problem.New(problem.UnknownDisk, "disk %q of machine %q", disk, machine)
	}
	return uint16(found), nil
}

// writeRaw copies a view into a new sparse file, durably. What was written
// goes when it fails.
func writeRaw(ctx context.Context, dev Device, out string, progress func(done, total int64)) error {
	f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return problem.New(problem.NameTaken, "%s exists", out)
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	err = f.Truncate(dev.Size())
	if err == nil {
		err = copyData(ctx, dev, f, progress)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(out)
		return fmt.Errorf("export to %s: %w", out, err)
	}
	return nil
}

func copyData(ctx context.Context, dev Device, f *os.File, progress func(done, total int64)) error {
	buf := make([]byte, 1<<20)
	size := dev.Size()
	for at := int64(0); at < size; {
		list, err := dev.Extents(ctx, at, size-at)
		if err != nil {
			return err
		}
		for _, x := range list {
			for end := at + x.Length; at < end; {
				n := min(end-at, int64(len(buf)))
				if x.Zero {
					n = end - at
				} else if err := dev.ReadAt(ctx, buf[:n], at); err != nil {
					return err
				} else if _, err := f.WriteAt(buf[:n], at); err != nil {
					return err
				}
				at += n
				if progress != nil {
					progress(at, size)
				}
			}
		}
	}
	return nil
}

// convert makes a qcow2 image of a raw one.
func convert(ctx context.Context, from, to string) error {
	temp := filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+".tmp")
	cmd := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", from, temp)
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("qemu-img convert: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Rename(temp, to); err != nil {
		return fmt.Errorf("export to %s: %w", to, err)
	}
	return nil
}
