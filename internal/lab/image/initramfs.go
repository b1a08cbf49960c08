package image

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"rebound/internal/lab/wire"
)

// baseModules is what every guest loads: virtio disks and cards, the power
// button and a source of randomness. ext4 is built into the kernel.
func baseModules() []string {
	return []string{"virtio_pci", "virtio_blk", "virtio_net", "evdev", "button", "virtio_rng"}
}

// scsiModules is what a guest loads that finds a virtio SCSI adapter; they
// cost a tenth of a boot.
func scsiModules() []string { return []string{"virtio_scsi", "sd_mod"} }

// writeInitramfs writes a compressed initramfs: /init, the modules, and the
// lists modules/base and modules/scsi, which name them in the order to load
// them in.
func writeInitramfs(path string, k *kernelFiles, initBinary string, agent agentFiles) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create initramfs: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close initramfs: %w", cerr)
		}
	}()
	// The kernel unpacks zstd faster than a boot loader reads.
	w, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("compress initramfs: %w", err)
	}
	if err := addFiles(&archive{w: w}, k, initBinary, agent); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

// addFiles writes the whole archive.
func addFiles(a *archive, k *kernelFiles, initBinary string, agent agentFiles) error {
	for _, dir := range []string{"dev", "proc", "sys", "data0", "data1", "modules", "run"} {
		a.add(entry{name: dir, mode: modeDir | 0o755})
	}
	a.add(entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})
	a.addFile("init", 0o755, initBinary)
	a.addAgent(agent)
	packed := make(map[string]bool)
	for _, list := range []struct {
		name  string
		wants []string
	}{{"modules/base", baseModules()}, {"modules/scsi", scsiModules()}, {"modules/agent", agentModules()}} {
		order, err := k.loadOrder(list.wants)
		if err != nil {
			return err
		}
		for _, name := range order {
			if !packed[name] {
				a.addFile("modules/"+name+".ko", 0o644, k.modules[name])
			}
			packed[name] = true
		}
		a.add(entry{name: list.name, mode: modeFile | 0o644, data: []byte(strings.Join(order, "\n") + "\n")})
	}
	return a.finish()
}

// addAgent writes the guest agent, its libraries, its hook and the hook's shell.
func (a *archive) addAgent(files agentFiles) {
	made := make(map[string]bool)
	folders := func(path string) {
		for i, c := range path {
			if c == '/' && !made[path[:i]] {
				made[path[:i]] = true
				a.add(entry{name: path[:i], mode: modeDir | 0o755})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		folders(name)
		a.addFile(name, 0o755, files[name])
	}
	hook := strings.TrimPrefix(wire.AgentHook, "/")
	folders(hook)
	a.add(entry{name: hook, mode: modeFile | 0o755, data: []byte(freezeHook)})
	for _, tool := range []string{"sh", "mv"} {
		a.add(entry{name: "bin/" + tool, mode: modeLink | 0o777, data: []byte("busybox")})
	}
}

// File types of stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
	modeLink = 0o120000
)

// entry is one file of an archive.
type entry struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device
	data         []byte
}

// archive writes the "new ASCII" cpio format that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). The first
// error sticks.
type archive struct {
	w     io.Writer
	inode uint32
	size  int64
	err   error
}

func (a *archive) addFile(name string, perm uint32, path string) {
	data, err := os.ReadFile(path)
	if err != nil && a.err == nil {
		a.err = err
		return
	}
	a.add(entry{name: name, mode: modeFile | perm, data: data})
}

func (a *archive) add(e entry) {
	a.inode++
	a.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, e.major, e.minor, len(e.name)+1, 0)
	a.write(append([]byte(e.name), 0))
	a.pad()
	a.write(e.data)
	a.pad()
}

// finish writes the end mark and returns the first error.
func (a *archive) finish() error {
	a.inode = 0
	a.add(entry{name: "TRAILER!!!"})
	return a.err
}

func (a *archive) printf(format string, args ...any) { a.write(fmt.Appendf(nil, format, args...)) }

// pad aligns to 4 bytes.
func (a *archive) pad() { a.write(make([]byte, -a.size&3)) }

func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.size += int64(n)
	a.err = err
}
