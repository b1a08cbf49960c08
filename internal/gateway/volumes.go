package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// RetentionVolume is a further place for journals, beside the gateway's own
// directory.
type RetentionVolume struct{ Name, Dir string }

// checkVolumes refuses names and paths that cannot be meant.
func checkVolumes(list []RetentionVolume) error {
	seen := map[string]bool{control.DefaultVolume: true}
	for _, v := range list {
		if err := dr.ValidName(v.Name); err != nil || seen[v.Name] {
			return problem.New(problem.InvalidName, "retention volume %q: want a name of its own, 1 to 63 letters, digits and hyphens", v.Name)
		}
		if !filepath.IsAbs(v.Dir) {
			return problem.New(problem.InvalidRequest, "retention volume %s: %q is no absolute path", v.Name, v.Dir)
		}
		seen[v.Name] = true
	}
	return nil
}

// journalDirs says where each retention volume keeps journals: in a folder of
// the gateway's own, so that two gateways may share a volume.
func (g *Gateway) journalDirs() map[string]string {
	dirs := map[string]string{}
	for _, v := range g.cfg.RetentionVolumes {
		dirs[v.Name] = filepath.Join(v.Dir, "rebound-"+string(g.cfg.Name))
	}
	return dirs
}

// checkVolume refuses a retention volume that cannot keep a journal.
func (g *Gateway) checkVolume(name string) error {
	if name == "" || name == control.DefaultVolume {
		return nil
	}
	for _, v := range g.volumes() {
		if v.Name != name {
			continue
		}
		if v.Trouble != "" {
			return problem.New(problem.RetentionUnusable, "%s of gateway %s: %s", name, g.cfg.Name, v.Trouble)
		}
		return nil
	}
	return problem.New(problem.RetentionUnusable, "gateway %s has no retention volume %q", g.cfg.Name, name)
}

// volumes tries every retention volume. The default one is the gateway's own
// directory, so that it alone may lie on the volume of state and spool.
func (g *Gateway) volumes() []control.RetentionVolume {
	out := []control.RetentionVolume{tryVolume(control.DefaultVolume, g.cfg.Dir)}
	for _, v := range g.cfg.RetentionVolumes {
		out = append(out, tryVolume(v.Name, v.Dir, g.cfg.SpoolDir, g.cfg.Dir))
	}
	return out
}

// tryVolume looks at a place for journals and writes to it. The rules are Azure
// Site Recovery's of retention drives: there, writable, not FAT, not the
// volume of the cache, not of size zero. Memory is refused too, since a journal
// must outlive the host.
func tryVolume(name, dir string, own ...string) control.RetentionVolume {
	v := control.RetentionVolume{Name: name, Path: dir}
	if err := lookAtVolume(&v, own); err != nil {
		v.Trouble = err.Error()
	}
	return v
}

// lookAtVolume fills in what a volume is, and returns why it cannot be used.
// own are the folders of state and spool, with whose volumes it is compared.
func lookAtVolume(v *control.RetentionVolume, own []string) error {
	st, err := os.Stat(v.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist", v.Path)
	case err != nil:
		return fmt.Errorf("look at volume: %w", err)
	case !st.IsDir():
		return fmt.Errorf("%s is no directory", v.Path)
	}
	var sf unix.Statfs_t
	if err := unix.Statfs(v.Path, &sf); err != nil {
		return fmt.Errorf("look at volume %s: %w", v.Path, err)
	}
	v.FileSystem = fileSystem(int64(sf.Type))
	v.FreeBytes, v.TotalBytes = int64(sf.Bavail)*sf.Bsize, int64(sf.Blocks)*sf.Bsize
	for _, spool := range own {
		same, err := sameVolume(v.Path, spool)
		if err != nil {
			return err
		}
		switch {
		case same:
			return fmt.Errorf("%s lies on the volume of the gateway's own state and spool (%s)", v.Path, spool)
		case v.FileSystem == "tmpfs" || v.FileSystem == "ramfs":
			return fmt.Errorf("%s lives in memory (%s): a restart of the host would delete the journal", v.Path, v.FileSystem)
		}
	}
	if v.FileSystem == "vfat" || v.FileSystem == "exfat" {
		return fmt.Errorf("%s is a FAT file system (%s), which loses data in a crash", v.Path, v.FileSystem)
	}
	if v.TotalBytes == 0 {
		return fmt.Errorf("%s has the size zero", v.Path)
	}
	if err := site.TryWrite(v.Path); err != nil {
		return fmt.Errorf("%s cannot be written to: %w", v.Path, err)
	}
	return nil
}

// fileSystem names a file system by its magic number (statfs(2)); one that is
// not known is its number.
func fileSystem(magic int64) string {
	switch magic {
	case unix.MSDOS_SUPER_MAGIC:
		return "vfat"
	case unix.EXFAT_SUPER_MAGIC:
		return "exfat"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.RAMFS_MAGIC:
		return "ramfs"
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	}
	return fmt.Sprintf("%#x", uint64(magic))
}

func sameVolume(a, b string) (bool, error) {
	var x, y unix.Stat_t
	if err := unix.Stat(a, &x); err != nil {
		return false, fmt.Errorf("look at volume %s: %w", a, err)
	}
	if err := unix.Stat(b, &y); err != nil {
		return false, fmt.Errorf("look at volume %s: %w", b, err)
	}
	return x.Dev == y.Dev, nil
}
