// Package leak looks for what a run of the demo or of a test has left on the
// machine: processes, mounts, network interfaces, namespaces and sockets. It
// only looks. What belongs to the run is told by its directory and by the
// prefix of the names that it gave, so that it can be used while others work
// on the same machine.
package leak

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Run says what belongs to a run.
type Run struct {
	// Dir is the run's directory: processes that name it in their command
	// line or work in it, mounts and sockets below it, belong to the run.
	Dir string
	// Prefix begins the names of its interfaces and namespaces; empty: it
	// has none.
	Prefix string
	// Ports are the TCP ports that it listened on.
	Ports []int
}

// Left returns what is left, one line each, sorted; the calling process and
// its ancestors do not count.
func (r Run) Left() ([]string, error) {
	dir, err := filepath.Abs(r.Dir)
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	if r.Dir == "" || dir == "/" {
		return nil, errors.New("look for leftovers: no directory given")
	}
	var left []string
	for _, look := range []func(string) ([]string, error){processes, mounts, r.interfaces, r.namespaces, unixSockets, r.listeners} {
		found, err := look(dir)
		if err != nil {
			return nil, fmt.Errorf("look for leftovers: %w", err)
		}
		left = append(left, found...)
	}
	slices.Sort(left)
	return left, nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}

// mentions reports whether text names dir or something below it.
func mentions(text, dir string) bool {
	for i := strings.Index(text, dir); i >= 0; {
		end := i + len(dir)
		if end == len(text) || strings.ContainsRune("/, \x00:", rune(text[end])) {
			return true
		}
		next := strings.Index(text[end:], dir)
		if next < 0 {
			return false
		}
		i = end + next
	}
	return false
}

func processes(dir string) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	own := ancestors()
	var left []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || own[pid] {
			continue
		}
		proc := "/proc/" + e.Name()
		cmdline, err := os.ReadFile(proc + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue // it ended, or is the kernel's
		}
		cwd, _ := os.Readlink(proc + "/cwd") // "" when it ended
		if mentions(string(cmdline), dir) || within(cwd, dir) {
			left = append(left, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(bytes.TrimRight(cmdline, "\x00"), []byte{0}, []byte{' '})))
		}
	}
	return left, nil
}

// ancestors returns this process and those above it.
func ancestors() map[int]bool {
	own := make(map[int]bool)
	for pid := os.Getpid(); pid > 0 && !own[pid]; {
		own[pid] = true
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		// The command, in parentheses, may hold anything; the parent is
		// the second field after it (proc(5)).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		pid, _ = strconv.Atoi(fields[1]) // 0 ends the loop
	}
	return own
}

func mounts(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var left []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && within(f[4], dir) {
			left = append(left, "mount "+f[4])
		}
	}
	return left, nil
}

func (r Run) interfaces(string) ([]string, error) {
	if r.Prefix == "" {
		return nil, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var left []string
	for _, i := range all {
		if strings.HasPrefix(i.Name, r.Prefix) {
			left = append(left, "interface "+i.Name)
		}
	}
	return left, nil
}

func (r Run) namespaces(string) ([]string, error) {
	if r.Prefix == "" {
		return nil, nil
	}
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var left []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), r.Prefix) {
			left = append(left, "namespace "+e.Name())
		}
	}
	return left, nil
}

// unixSockets looks for open sockets; a socket's file that nobody has open is
// a file.
func unixSockets(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	var left []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 7 && within(f[7], dir) {
			left = append(left, "socket "+f[7])
		}
	}
	return slices.Compact(left), nil
}

// listeners looks for the run's ports in state 0A, TCP_LISTEN.
func (r Run) listeners(string) ([]string, error) {
	var left []string
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseInt(hex, 16, 32)
			if err == nil && slices.Contains(r.Ports, int(port)) {
				left = append(left, fmt.Sprintf("TCP port %d", port))
			}
		}
	}
	return left, nil
}
