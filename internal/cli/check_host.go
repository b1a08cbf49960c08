package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/site/qemu"
)

// QEMU's versions: blockdev-reopen, which the commit needs, is stable since
// 6.1; all of Rebound is tried on 7.2.
const (
	qemuNeeded = 6*100 + 1
	qemuTried  = 7*100 + 2
)

// toolWithin bounds the call of a tool that only prints its version.
const toolWithin = 10 * time.Second

var versionRE = regexp.MustCompile(`version (\d+)\.(\d+)\.?(\d*)`)

// toolVersion runs a tool with --version.
func toolVersion(ctx context.Context, tool string) (path, text string, number int, err error) {
	if path, err = exec.LookPath(tool); err != nil {
		return "", "", 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, toolWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return path, "", 0, fmt.Errorf("%s --version: %w", path, err)
	}
	m := versionRE.FindStringSubmatch(string(out))
	if m == nil {
		return path, "", 0, fmt.Errorf("%s --version said %q", path, strings.TrimSpace(string(out)))
	}
	major, _ := strconv.Atoi(m[1]) // the expression matches digits only
	minor, _ := strconv.Atoi(m[2])
	return path, strings.TrimPrefix(m[0], "version "), major*100 + minor, nil
}

func (c *checker) qemu(ctx context.Context) {
	const name = "QEMU"
	path, text, number, err := toolVersion(ctx, "qemu-system-x86_64")
	switch {
	case err != nil:
		c.add(checkFail, name, "Install QEMU (Debian: apt install qemu-system-x86).", "%v", err)
	case number < qemuNeeded:
		c.add(checkFail, name, "Upgrade QEMU to 7.2 or newer.", "%s is version %s: commit needs 6.1", path, text)
	case number < qemuTried:
		c.add(checkWarn, name, "Upgrade QEMU to 7.2 or newer.", "%s is version %s; Rebound is tried on 7.2", path, text)
	default:
		c.add(checkOK, name, "", "%s, version %s", path, text)
	}
}

func (c *checker) imageTool(ctx context.Context) {
	path, text, _, err := toolVersion(ctx, "qemu-img")
	if err != nil {
		c.add(checkFail, "qemu-img", "Install it (Debian: apt install qemu-utils).", "%v", err)
		return
	}
	c.add(checkOK, "qemu-img", "", "%s, version %s", path, text)
}

// accelerator proves KVM in a datastore of its own, so that nothing is written
// where a gateway works.
func (c *checker) accelerator(ctx context.Context) {
	const name = "KVM"
	dir, err := os.MkdirTemp("", "rebound-check-*")
	if err != nil {
		c.add(checkFail, name, "Mend the directory for temporary files.", "%v", err)
		return
	}
	defer os.RemoveAll(dir)
	driver, err := qemu.New(qemu.Config{Dir: dir})
	if err != nil {
		c.add(checkFail, name, "", "%v", err)
		return
	}
	defer driver.Close()
	accel, reason, err := driver.Accelerator(ctx)
	switch {
	case err != nil:
		c.add(checkFail, name, "Install QEMU.", "%v", err)
	case accel == "kvm":
		c.add(checkOK, name, "", "%s", reason)
	default:
		c.add(checkWarn, name, "Machines run, but slowly. Turn on virtualisation (nested, in a VM) and make /dev/kvm accessible.", "machines would run under TCG: %s", reason)
	}
}

// lowRoom is the room under which even small journals are refused soon.
const lowRoom = 10 << 30

// room looks at the volume that --dir lies on, or would lie on.
func (c *checker) room(context.Context) {
	const name = "room"
	at, err := filepath.Abs(c.o.dir)
	if err != nil {
		c.add(checkFail, name, "Give another --dir.", "%v", err)
		return
	}
	for at != "/" {
		if _, err := os.Stat(at); err == nil {
			break
		}
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		c.add(checkFail, name, "Give another --dir.", "%s: %v", at, err)
		return
	}
	c.free = int64(st.Bavail) * st.Bsize
	total := int64(st.Blocks) * st.Bsize
	if err := unix.Access(at, unix.W_OK); err != nil {
		c.add(checkFail, name, "Run as a user that may write there, or give another --dir.", "%s cannot be written: %v", at, err)
		return
	}
	if c.free < lowRoom {
		c.add(checkWarn, name, "Free room, or give a --dir on another volume.", "%s free of %s at %s", size(c.free), size(total), at)
		return
	}
	c.add(checkOK, name, "", "%s free of %s at %s", size(c.free), size(total), at)
}

func (c *checker) runDir(context.Context) {
	run, err := filepath.Abs(filepath.Join(c.o.dir, "run"))
	if err != nil {
		c.add(checkFail, "sockets", "Give another --dir.", "%v", err)
		return
	}
	if len(run) > maxRunDir {
		c.add(checkFail, "sockets", "Give 'rebound gateway serve' a --run-dir with a shorter path.", "%s has %d bytes; at most %d fit before the names of sockets", run, len(run), maxRunDir)
		return
	}
	c.add(checkOK, "sockets", "", "the path %s is short enough", run)
}

// port tries to listen where a gateway would.
func (c *checker) port(ctx context.Context) {
	const name = "data port"
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.o.listen)
	if err != nil {
		c.add(checkWarn, name, "If that is not this host's gateway, give 'rebound gateway serve' another --listen.", "%v", err)
		return
	}
	if err := ln.Close(); err != nil {
		c.add(checkWarn, name, "", "%v", err)
		return
	}
	c.add(checkOK, name, "", "%s is free", c.o.listen)
}
