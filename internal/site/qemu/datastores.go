package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

var _ site.Datastorer = (*Driver)(nil)

// Datastore is a further folder for disks. A machine's record, its overlays
// and its variable store always lie in Config.Dir.
type Datastore struct{ Name, Dir string }

func checkDatastores(list []Datastore) error {
	seen := map[string]bool{site.DefaultDatastore: true}
	for _, ds := range list {
		if err := dr.ValidName(ds.Name); err != nil || seen[ds.Name] {
			return problem.New(problem.InvalidName, "datastore %q: want a name of its own, 1 to 63 letters, digits and hyphens", ds.Name)
		}
		if !filepath.IsAbs(ds.Dir) {
			return problem.New(problem.InvalidRequest, "datastore %s: %q is no absolute path", ds.Name, ds.Dir)
		}
		seen[ds.Name] = true
	}
	return nil
}

// Datastores implements site.Datastorer.
func (d *Driver) Datastores(context.Context) ([]site.Datastore, error) {
	var out []site.Datastore
	for _, ds := range append([]Datastore{{site.DefaultDatastore, d.cfg.Dir}}, d.cfg.Datastores...) {
		row := site.Datastore{Name: ds.Name, Path: ds.Dir}
		var st unix.Statfs_t
		if err := unix.Statfs(ds.Dir, &st); err != nil {
			d.log.Warn("datastore cannot be used", "datastore", ds.Name, "path", ds.Dir, "error", err)
			row.ReadOnly = true
			out = append(out, row)
			continue
		}
		row.FreeBytes, row.TotalBytes = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
		row.ReadOnly = site.TryWrite(ds.Dir) != nil
		out = append(out, row)
	}
	return out, nil
}

// CreateIn implements site.Datastorer.
func (d *Driver) CreateIn(ctx context.Context, def dr.Definition, datastore string) error {
	if datastore == "" || datastore == site.DefaultDatastore {
		return d.create(ctx, def, "")
	}
	i := slices.IndexFunc(d.cfg.Datastores, func(ds Datastore) bool { return ds.Name == datastore })
	if i < 0 {
		return problem.New(problem.DatastoreUnusable, "the site has no datastore %q", datastore)
	}
	return d.create(ctx, def, d.cfg.Datastores[i].Dir)
}

// placeDisks chooses where the disks of a new machine lie: where they are
// already, else in dir; "" is the machine's own folder.
func (m *machine) placeDisks(rec *record, dir string) error {
	for _, disk := range rec.Definition.Disks {
		own := m.path(string(disk.ID) + ".raw")
		if _, err := os.Stat(own); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for disk %s of machine %s: %w", disk.ID, m.name, err)
		}
		path := ""
		for _, ds := range m.d.cfg.Datastores {
			p := filepath.Join(ds.Dir, string(m.name), string(disk.ID)+".raw")
			if _, err := os.Stat(p); err == nil {
				path = p
			}
		}
		if path == "" && dir != "" {
			path = filepath.Join(dir, string(m.name), string(disk.ID)+".raw")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return problem.Wrap(err, problem.DatastoreUnusable, "%s", dir)
			}
		}
		if path != "" {
			if rec.DiskPaths == nil {
				rec.DiskPaths = map[dr.DiskID]string{}
			}
			rec.DiskPaths[disk.ID] = path
		}
	}
	return nil
}

// removeElsewhere deletes the machine's folders in the other datastores; what
// lies outside of them, such as an imported machine's disks, is never touched.
func (m *machine) removeElsewhere() error {
	for _, ds := range m.d.cfg.Datastores {
		if err := os.RemoveAll(filepath.Join(ds.Dir, string(m.name))); err != nil {
			return fmt.Errorf("delete disks of machine %s: %w", m.name, err)
		}
	}
	return nil
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
