// Package netns makes two network namespaces joined by a wire, so that tests
// can cut the wire or make it slow between two sites on one machine.
//
// What it promises: nothing outside the namespaces is touched; Close removes
// all of it, also processes' leftovers of a run that crashed (Clean). It needs
// root and the tools ip and tc (package iproute2).
package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxPrefix is the longest prefix that New accepts: interface names have at
// most 15 bytes.
const MaxPrefix = 12

// Space is one network namespace.
type Space struct {
	// Name is its name for ip netns; its end of the wire has the same.
	Name string
	// Addr is its address on the wire.
	Addr netip.Addr
}

// Pair is two namespaces joined by a wire.
type Pair struct {
	A, B Space
}

// New makes the pair prefix+"-a" (192.0.2.1) and prefix+"-b" (192.0.2.2),
// addresses that RFC 5737 reserves for examples. Each has a loopback of its
// own. What a crashed run left under these names is removed first.
func New(ctx context.Context, prefix string) (*Pair, error) {
	if prefix == "" || len(prefix) > MaxPrefix || strings.ContainsAny(prefix, "/ ") {
		return nil, fmt.Errorf("make network namespaces: prefix %q: want 1 to %d bytes", prefix, MaxPrefix)
	}
	p := &Pair{
		A: Space{Name: prefix + "-a", Addr: netip.AddrFrom4([4]byte{192, 0, 2, 1})},
		B: Space{Name: prefix + "-b", Addr: netip.AddrFrom4([4]byte{192, 0, 2, 2})},
	}
	if err := p.Close(ctx); err != nil {
		return nil, err
	}
	steps := [][]string{{"netns", "add", p.A.Name}, {"netns", "add", p.B.Name}}
	steps = append(steps, []string{"link", "add", p.A.Name, "netns", p.A.Name, "type", "veth", "peer", "name", p.B.Name, "netns", p.B.Name})
	for _, s := range []Space{p.A, p.B} {
		steps = append(steps,
			[]string{"-n", s.Name, "addr", "add", s.Addr.String() + "/24", "dev", s.Name},
			[]string{"-n", s.Name, "link", "set", "lo", "up"},
			[]string{"-n", s.Name, "link", "set", s.Name, "up"})
	}
	for _, args := range steps {
		if err := run(ctx, "ip", args...); err != nil {
			return nil, errors.Join(err, p.Close(context.WithoutCancel(ctx)))
		}
	}
	return p, nil
}

// Command returns a command that will run inside the namespace.
func (s Space) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", s.Name, name}, args...)...)
}

// Do calls f on a thread inside the namespace: sockets that f opens itself (not
// in goroutines of its own) are there, and stay there.
func (s Space) Do(f func() error) error {
	result := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and with it
		// its stay in the namespace.
		runtime.LockOSThread()
		result <- s.enter(f)
	}()
	return <-result
}

func (s Space) enter(f func() error) error {
	ns, err := os.Open("/run/netns/" + s.Name)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", s.Name, err)
	}
	return f()
}

// SetWire joins or cuts the wire. A cut loses packets, silently for both ends:
// connections do not break, they hang.
func (p *Pair) SetWire(ctx context.Context, joined bool) error {
	// A queue that drops everything, and not a link that is down, which the
	// kernel would report to senders at once.
	for _, s := range []Space{p.A, p.B} {
		args := []string{"-n", s.Name, "qdisc", "replace", "dev", s.Name, "root", "handle", "1:", "tbf", "rate", "8bit", "burst", "1", "limit", "1"}
		if joined {
			args = []string{"-n", s.Name, "qdisc", "del", "dev", s.Name, "root"}
			if slow, err := s.shaped(ctx); err != nil || !slow {
				if err != nil {
					return err
				}
				continue
			}
		}
		if err := run(ctx, "tc", args...); err != nil {
			return err
		}
	}
	return nil
}

// SetRate makes the wire carry at most so many bytes a second in either
// direction, with up to 50 ms of queue; 0 removes the limit.
func (p *Pair) SetRate(ctx context.Context, bytesPerSecond int64) error {
	if bytesPerSecond == 0 {
		return p.SetWire(ctx, true)
	}
	if bytesPerSecond < 1000 {
		return fmt.Errorf("limit wire: %d bytes a second: want 1000 or more", bytesPerSecond)
	}
	for _, s := range []Space{p.A, p.B} {
		err := run(ctx, "tc", "-n", s.Name, "qdisc", "replace", "dev", s.Name, "root", "handle", "1:", "tbf",
			"rate", fmt.Sprintf("%dbps", bytesPerSecond), "burst", "64k", "latency", "50ms")
		if err != nil {
			return err
		}
	}
	return nil
}

// shaped reports whether the namespace's end of the wire has a queue of ours.
func (s Space) shaped(ctx context.Context) (bool, error) {
	out, err := exec.CommandContext(ctx, "tc", "-n", s.Name, "qdisc", "show", "dev", s.Name).CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("look at the queue of %s: %w: %s", s.Name, err, bytes.TrimSpace(out))
	}
	return bytes.Contains(out, []byte("qdisc tbf 1:")), nil
}

// Close removes both namespaces and the wire; what is not there is no error.
func (p *Pair) Close(ctx context.Context) error {
	var errs []error
	for _, s := range []Space{p.A, p.B} {
		if _, err := os.Stat("/run/netns/" + s.Name); err != nil {
			continue
		}
		errs = append(errs, run(ctx, "ip", "netns", "del", s.Name))
	}
	return errors.Join(errs...)
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
