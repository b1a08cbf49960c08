package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// diskTimeout is how long the disks may take to appear.
const diskTimeout = 20 * time.Second

// mountKernel mounts the kernel's own file systems and loads the modules.
func mountKernel() error {
	for _, m := range []struct{ kind, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// loadModules loads what every guest needs, and the SCSI part where there is an
// adapter (virtio device 8, Virtual I/O Device specification 1.2 section 5).
func loadModules() error {
	if err := loadList("/modules/base"); err != nil {
		return err
	}
	devices, _ := filepath.Glob("/sys/bus/virtio/devices/*/modalias") // the pattern is good
	for _, d := range devices {
		if alias, err := os.ReadFile(d); err == nil && strings.HasPrefix(string(alias), "virtio:d00000008v") {
			return loadList("/modules/scsi")
		}
	}
	return nil
}

// loadList loads the modules that a file names, in its order.
func loadList(list string) error {
	order, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("read module order: %w", err)
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open("/modules/" + name + ".ko")
		if err != nil {
			return fmt.Errorf("open module: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		// A module may be there already, or have no device to drive.
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

// mounts are the mounted file systems of the ledger.
type mounts struct {
	dirs [ledger.Files]string
}

// mountLedgers loads the modules, waits for both file systems to appear and
// mounts them.
func mountLedgers() (*mounts, error) {
	events, err := openUevents()
	if err != nil {
		return nil, err
	}
	defer events.close()
	if err := loadModules(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), diskTimeout)
	defer cancel()
	for {
		found := findLabels()
		if found[0] != "" && found[1] != "" {
			return mountAll(found)
		}
		if err := events.wait(ctx); err != nil {
			return nil, fmt.Errorf("wait for the file systems %s and %s (have %q): %w", wire.LabelFirst, wire.LabelSecond, found, err)
		}
	}
}

func mountAll(devices [ledger.Files]string) (*mounts, error) {
	m := &mounts{}
	for i, dev := range devices {
		dir := fmt.Sprintf("/data%d", i)
		if err := unix.Mount(dev, dir, "ext4", unix.MS_NOATIME, ""); err != nil {
			return nil, errors.Join(fmt.Errorf("mount %s: %w", dev, err), m.unmount())
		}
		m.dirs[i] = dir
	}
	return m, nil
}

func (m *mounts) unmount() error {
	var errs []error
	for _, dir := range m.dirs {
		if dir == "" {
			continue
		}
		if err := unix.Unmount(dir, 0); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// findLabels looks at every block device for the ledger's file systems.
func findLabels() (found [ledger.Files]string) {
	devices, _ := filepath.Glob("/sys/class/block/*") // the pattern is good
	for _, d := range devices {
		dev := "/dev/" + filepath.Base(d)
		switch extLabel(dev) {
		case wire.LabelFirst:
			found[0] = dev
		case wire.LabelSecond:
			found[1] = dev
		}
	}
	return found
}

// extLabel returns the label of an ext4 file system, "" where there is none.
// The super block lies at 1024, its magic at 0x38, its label at 0x78.
func extLabel(dev string) string {
	f, err := os.Open(dev)
	if err != nil {
		return ""
	}
	defer f.Close()
	var sb [1024]byte
	if _, err := f.ReadAt(sb[:], 1024); err != nil || binary.LittleEndian.Uint16(sb[0x38:]) != 0xef53 {
		return ""
	}
	return string(bytes.TrimRight(sb[0x78:0x88], "\x00"))
}

// uevents is the kernel's stream of news about devices.
type uevents struct {
	file *os.File
}

func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open device events: %w", err)
	}
	u := &uevents{file: os.NewFile(uintptr(fd), "uevents")}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		u.close()
		return nil, fmt.Errorf("subscribe to device events: %w", err)
	}
	return u, nil
}

func (u *uevents) close() { _ = u.file.Close() }

// wait returns after the next event, with an error when ctx ended first. What
// the event was about shows in /sys.
func (u *uevents) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = u.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var event [8192]byte
	_, err := u.file.Read(event[:])
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, unix.ENOBUFS): // some were missed: look again
		return fmt.Errorf("read device events: %w", err)
	}
	return nil
}
