package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

var (
	_ site.Examiner  = (*Driver)(nil)
	_ site.Versioner = (*Driver)(nil)
)

// Version implements site.Versioner: "QEMU emulator version 7.2.9 (…)".
func (d *Driver) Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, d.cfg.Binary, "--version").Output()
	if err != nil {
		return "", problem.Wrap(err, problem.HypervisorError, "%s does not tell its version", d.cfg.Binary)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

// Examine implements site.Examiner. It reads the records of all machines and
// the headers of this one's images.
func (d *Driver) Examine(ctx context.Context, def dr.Definition) (site.Finding, error) {
	f := site.Finding{Machine: def.Name}
	m, rec, err := d.known(def.Name)
	switch {
	case err == nil:
		f.Exists, f.State = true, m.state(ctx, rec)
		if err := m.examineDisks(ctx, rec, &f); err != nil {
			return f, err
		}
	case !problem.HasCode(err, problem.UnknownMachine):
		return f, err
	}
	names, err := d.names()
	if err != nil {
		return f, err
	}
	for _, name := range names {
		if name == def.Name {
			continue
		}
		// A record that cannot be read is no twin; the inventory names it.
		if other, err := d.at(name).record(); err == nil && !other.isTest() {
			f.Twins = append(f.Twins, site.Twins(def, name, other.Definition)...)
		}
	}
	return f, nil
}

// image is what qemu-img says of a file.
type image struct {
	Format    string                  `json:"format"`
	Snapshots []struct{ Name string } `json:"snapshots"`
}

func (m *machine) examineDisks(ctx context.Context, rec *record, f *site.Finding) error {
	for _, disk := range rec.Definition.Disks {
		if disk.ReadOnly {
			continue
		}
		path, other := rec.Images[disk.ID]
		if !other {
			path = m.diskPath(rec, disk.ID)
		}
		img, err := m.d.image(ctx, path)
		if errors.Is(err, fs.ErrNotExist) && !rec.Imported {
			continue // made anew
		}
		if err != nil {
			f.NoBase = append(f.NoBase, fmt.Sprintf("%s: %s cannot be read as a disk image", disk.ID, path))
			continue
		}
		for _, s := range img.Snapshots {
			f.Snapshots = append(f.Snapshots, fmt.Sprintf("%s: %s", disk.ID, s.Name))
		}
		if img.Format != "raw" {
			f.NoBase = append(f.NoBase, fmt.Sprintf("%s: %s is %s, not raw", disk.ID, path, img.Format))
		}
	}
	return ctx.Err()
}

// image reads the header of an image, whoever has it open.
func (d *Driver) image(ctx context.Context, path string) (image, error) {
	var img image
	if err := readable(path); err != nil {
		return img, err
	}
	out, err := exec.CommandContext(ctx, d.cfg.ImageTool, "info", "--force-share", "--output=json", path).Output()
	if err != nil {
		return img, problem.Wrap(err, problem.HypervisorError, "look at image %s", path)
	}
	if err := json.Unmarshal(out, &img); err != nil {
		return img, fmt.Errorf("look at image %s: %w", path, err)
	}
	return img, nil
}
