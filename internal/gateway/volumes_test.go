package gateway

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted mounts something at a new folder and unmounts it with the test.
func mounted(t *testing.T, source, fstype string, flags uintptr, data string) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount(source, dir, fstype, flags, data)
	if errors.Is(err, unix.ENODEV) {
		t.Skipf("the kernel has no %s", fstype)
	}
	if err != nil {
		t.Fatalf("mount %s: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// loop makes a file system in a file and mounts it.
func loop(t *testing.T, fstype string, mkfs ...string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "volume.img")
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], img)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", mkfs, err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", img).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", dev, err, out)
		}
	})
	return mounted(t, dev, fstype, 0, "")
}

// TestRetentionVolumes tries volumes of every kind, with real mounts.
func TestRetentionVolumes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	own := t.TempDir()
	file := filepath.Join(own, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tmpfs := mounted(t, "tmpfs", "tmpfs", 0, "size=8m")
	readOnly := mounted(t, tmpfs, "", unix.MS_BIND, "")
	if err := unix.Mount("", readOnly, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	check := func(name, dir, want string, own ...string) {
		t.Helper()
		v := tryVolume(name, dir, own...)
		if want == "" && v.Trouble != "" || want != "" && !strings.Contains(v.Trouble, want) {
			t.Errorf("%s: trouble %q, want %q", name, v.Trouble, want)
		}
		if left, err := filepath.Glob(filepath.Join(dir, ".rebound-try-*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind %v, %v", name, left, err)
		}
	}
	check("missing", filepath.Join(own, "none"), "does not exist", own)
	check("file", file, "is no directory", own)
	check("own", t.TempDir(), "own state and spool", own)
	check("memory", tmpfs, "lives in memory", own)
	check("read-only", readOnly, "cannot be written to")
	check("default", own, "")
	if got := fileSystem(unix.MSDOS_SUPER_MAGIC); got != "vfat" {
		t.Errorf("FAT is called %q", got)
	}
	t.Run("ext4", func(t *testing.T) {
		dir := loop(t, "ext4", "mkfs.ext4", "-q", "-F")
		v := tryVolume("big", dir, own)
		if v.Trouble != "" || v.FileSystem != "ext4" || v.FreeBytes <= 0 || v.FreeBytes > 64<<20 {
			t.Errorf("ext4: %+v", v)
		}
	})
	t.Run("vfat", func(t *testing.T) {
		if _, err := exec.LookPath("mkfs.vfat"); err != nil {
			t.Skip("no mkfs.vfat")
		}
		check("fat", loop(t, "vfat", "mkfs.vfat"), "FAT", own)
	})
}
