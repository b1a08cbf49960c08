package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the proofs that KVM works. Where it does, the boot sector ends
// within 0.3 s and a kernel within 3 s; broken nested virtualisation takes
// seconds for the first and hangs in the second.
const (
	probeSectorLimit = 2 * time.Second
	probeKernelLimit = 20 * time.Second
)

// accelProof is what accel.json remembers. It holds while the host's kernel and
// the QEMU binary stay the same.
type accelProof struct {
	Accel  string    `json:"accel"`
	Kernel string    `json:"kernel"`
	QEMU   string    `json:"qemu"`
	CPU    string    `json:"cpu"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// accelerator returns what machines are to run with: as configured, as proven
// before, or as a trial tells.
func (d *Driver) accelerator(ctx context.Context) (string, error) {
	if d.cfg.Accel != "" {
		return d.cfg.Accel, nil
	}
	unlock, err := d.lock(ctx, "accel")
	if err != nil {
		return "", err
	}
	defer unlock()
	d.mu.Lock()
	known := d.accel
	d.mu.Unlock()
	if known != "" {
		return known, nil
	}
	now, err := d.accelCircumstances()
	if err != nil {
		return "", err
	}
	path := filepath.Join(d.cfg.Dir, "accel.json")
	var old accelProof
	if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &old) == nil &&
		old.Kernel == now.Kernel && old.QEMU == now.QEMU && old.CPU == now.CPU && (old.Accel == "kvm" || old.Accel == "tcg") {
		now = old
	} else {
		now.Accel, now.Reason = "kvm", "a guest boots under KVM"
		if err := d.proveKVM(ctx); err != nil {
			if ctx.Err() != nil {
				return "", fmt.Errorf("try KVM: %w", context.Cause(ctx))
			}
			now.Accel, now.Reason = "tcg", err.Error()
		}
		text, err := json.MarshalIndent(now, "", "  ")
		if err != nil {
			return "", fmt.Errorf("remember accelerator: %w", err)
		}
		if err := writeFile(path, append(text, '\n')); err != nil {
			return "", fmt.Errorf("remember accelerator: %w", err)
		}
		d.log.Info("accelerator chosen", "accel", now.Accel, "reason", now.Reason)
	}
	d.mu.Lock()
	d.accel = now.Accel
	d.mu.Unlock()
	return now.Accel, nil
}

// accelCircumstances names what a proof depends on.
func (d *Driver) accelCircumstances() (accelProof, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return accelProof{}, fmt.Errorf("name kernel: %w", err)
	}
	binary, err := exec.LookPath(d.cfg.Binary)
	if err != nil {
		return accelProof{}, fmt.Errorf("find QEMU: %w", err)
	}
	st, err := os.Stat(binary)
	if err != nil {
		return accelProof{}, fmt.Errorf("find QEMU: %w", err)
	}
	kvm := "no kvm"
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
		kvm = "kvm"
	}
	return accelProof{
		Kernel: unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Version[:]) + ", " + kvm,
		QEMU:   fmt.Sprintf("%s %d %s", binary, st.Size(), st.ModTime().UTC().Format(time.RFC3339)),
		CPU:    d.cfg.CPU, Time: time.Now().UTC(),
	}, nil
}

// proveKVM boots two guests under KVM: a boot sector that ends QEMU through a
// debug port, and, where the host has one, a Linux kernel until it panics for
// want of a root file system.
func (d *Driver) proveKVM(ctx context.Context) error {
	if err := unix.Access("/dev/kvm", unix.R_OK|unix.W_OK); err != nil {
		return fmt.Errorf("/dev/kvm: %w", err)
	}
	if err := d.proveSector(ctx, "kvm"); err != nil {
		return err
	}
	kernel := d.probeKernel()
	if kernel == "" {
		return nil
	}
	return d.proveKernel(ctx, "kvm", kernel)
}

// probeSector is 16-bit code: mov al,42; mov dx,0xf4; out dx,al; hlt; jmp $.
// The debug-exit device makes QEMU exit with 42*2+1.
func probeSector() []byte {
	disk := make([]byte, 1<<20)
	copy(disk, []byte{0xb0, 42, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd})
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}

const probeExit = 42*2 + 1

func (d *Driver) proveSector(ctx context.Context, accel string) error {
	dir, err := os.MkdirTemp(d.cfg.Dir, ".probe-*") // also takes the core of a QEMU that dies
	if err != nil {
		return fmt.Errorf("boot sector: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "disk"), probeSector(), 0o600); err != nil {
		return fmt.Errorf("boot sector: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeSectorLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.cfg.Binary, append(d.probeArgs(accel, 64),
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4",
		"-blockdev", option(object{"driver": "raw", "node-name": "disk", "read-only": true, "file": object{"driver": "file", "filename": "disk"}}),
		"-device", "virtio-blk-pci,drive=disk,bootindex=0")...)
	cmd.Dir = dir
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("boot sector did not end within %v", probeSectorLimit)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == probeExit {
		return nil
	}
	return fmt.Errorf("boot sector: QEMU ended with %w", errOr(err, errors.New("code 0")))
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (d *Driver) probeArgs(accel string, memory int) []string {
	return []string{
		"-accel", accelOption(accel), "-machine", "q35", "-cpu", d.cfg.CPU, "-m", fmt.Sprint(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
	}
}

// probeKernel returns the newest kernel that can be read, or "".
func (d *Driver) probeKernel() string {
	var found []string
	for _, pattern := range d.cfg.ProbeKernels {
		files, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		slices.Sort(files)
		slices.Reverse(files)
		for _, f := range files {
			if unix.Access(f, unix.R_OK) == nil && !strings.Contains(f, "rescue") {
				found = append(found, f)
			}
		}
	}
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

// proveKernel passes when the kernel got far enough to look for its root.
func (d *Driver) proveKernel(ctx context.Context, accel, kernel string) error {
	dir, err := os.MkdirTemp(d.cfg.Dir, ".probe-*")
	if err != nil {
		return fmt.Errorf("kernel %s: %w", kernel, err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, probeKernelLimit)
	defer cancel()
	done := &watchWriter{want: []byte("Unable to mount root fs"), hit: cancel}
	cmd := exec.CommandContext(ctx, d.cfg.Binary, append(d.probeArgs(accel, 256),
		"-kernel", kernel, "-append", "console=ttyS0 panic=-1", "-serial", "stdio")...)
	cmd.Dir, cmd.Stdout = dir, done
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if done.seen() {
		return nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("kernel %s did not boot within %v", kernel, probeKernelLimit)
	}
	return fmt.Errorf("kernel %s: QEMU ended with %w", kernel, errOr(err, errors.New("code 0")))
}

// watchWriter calls hit once a text has passed.
type watchWriter struct {
	want []byte
	hit  func()

	mu   sync.Mutex
	tail []byte
	got  bool
}

func (w *watchWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tail = append(w.tail, p...)
	if !w.got && bytes.Contains(w.tail, w.want) {
		w.got = true
		w.hit()
	}
	if keep := len(w.want); len(w.tail) > keep {
		w.tail = append([]byte(nil), w.tail[len(w.tail)-keep:]...)
	}
	return len(p), nil
}

func (w *watchWriter) seen() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got
}
