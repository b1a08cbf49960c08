package qemu

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// maxInterfaceName is IFNAMSIZ less its NUL.
const maxInterfaceName = 15

// A test network is a bridge in a network namespace of its own, which belongs
// to nobody but the machines in it: each of their QEMUs inherits a descriptor
// of the namespace (number namespaceFD) and its TAPs. The host has no interface
// in there, so that no frame can come in or go out, whatever the host's
// forwarding, ARP or firewall settings are; and when the last QEMU ends, by
// SIGKILL too, the kernel removes namespace, bridge and TAPs.
const (
	testBridge  = "rbtest"
	namespaceFD = 3
)

// tapName names the TAP of a machine's card: "rb", 8 hex digits of the folder
// and machine, "n", the card's number.
func (d *Driver) tapName(name dr.MachineName, card int) string {
	sum := sha256.Sum256([]byte(d.cfg.Dir + "\x00" + string(name)))
	return fmt.Sprintf("rb%xn%d", sum[:4], card)
}

// bridgeTap makes a TAP on a bridge of the host. The TAP lives as long as its
// descriptor.
func (d *Driver) bridgeTap(name dr.MachineName, card int, bridge string) (*os.File, error) {
	if _, err := netlink.LinkByName(bridge); err != nil {
		return nil, problem.Wrap(err, problem.UnknownNetwork, "the host has no bridge %s", bridge)
	}
	f, err := openTap(d.tapName(name, card), bridge)
	if err != nil {
		return nil, problem.Wrap(err, problem.HypervisorError, "connect machine %s to bridge %s", name, bridge)
	}
	return f, nil
}

// openTap makes a TAP in the present namespace, without an address of the
// host's on it, and puts it on a bridge.
func openTap(name, bridge string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := setUpTap(fd, name, bridge); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func setUpTap(fd int, name, bridge string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("name tap %s: %w", name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make tap %s: %w", name, err)
	}
	disableIPv6(name)
	tap, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find tap %s: %w", name, err)
	}
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	if err := netlink.LinkSetMTU(tap, br.Attrs().MTU); err != nil {
		return fmt.Errorf("set MTU of tap %s: %w", name, err)
	}
	if err := netlink.LinkSetMaster(tap, br); err != nil {
		return fmt.Errorf("put tap %s on bridge %s: %w", name, bridge, err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set tap %s up: %w", name, err)
	}
	return nil
}

// disableIPv6 keeps the host from giving itself an address on an interface.
// Without the file there is no IPv6 that could.
func disableIPv6(name string) {
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1\n"), 0)
}

// testNamespace returns the namespace of a test network: that of a member
// that runs, or a new one. The caller holds the network's lock until the
// machine that it is for runs.
func (d *Driver) testNamespace(ctx context.Context, network string, except dr.MachineName) (*os.File, error) {
	members, err := d.testMembers(network)
	if err != nil {
		return nil, err
	}
	for _, x := range members {
		if x.m.name == except {
			continue
		}
		if f := x.m.namespace(); f != nil {
			return f, nil
		}
	}
	f, err := newTestNamespace(ctx)
	if err != nil {
		return nil, problem.Wrap(err, problem.HypervisorError, "make test network %s", network)
	}
	return f, nil
}

// namespace opens the namespace that the machine's QEMU holds, or returns nil.
func (m *machine) namespace() *os.File {
	p, err := m.process()
	if err != nil || p == nil {
		return nil
	}
	defer p.close()
	f, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", p.pid, namespaceFD))
	if err != nil {
		return nil
	}
	if p.ended() || !isNamespace(f) {
		_ = f.Close()
		return nil
	}
	return f
}

// isNamespace reports whether a file is a network namespace.
func isNamespace(f *os.File) bool {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET
}

// newTestNamespace makes a namespace with an empty bridge in it.
func newTestNamespace(ctx context.Context) (*os.File, error) {
	var ns *os.File
	err := onOwnThread(ctx, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make namespace: %w", err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		if err := makeTestBridge(); err != nil {
			return errors.Join(err, f.Close())
		}
		ns = f
		return nil
	})
	return ns, err
}

func makeTestBridge() error {
	disableIPv6("all")
	disableIPv6("default")
	snooping := false // without a querier it would hold multicast back
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: testBridge}, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return fmt.Errorf("set bridge up: %w", err)
	}
	return nil
}

// testTap makes a TAP on the bridge of a test network's namespace.
func (d *Driver) testTap(ctx context.Context, ns *os.File, name dr.MachineName, card int) (*os.File, error) {
	var tap *os.File
	err := onOwnThread(ctx, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		var err error
		tap, err = openTap(d.tapName(name, card), testBridge)
		return err
	})
	if err != nil {
		return nil, problem.Wrap(err, problem.HypervisorError, "connect machine %s to its test network", name)
	}
	return tap, nil
}

// onOwnThread runs fn on a thread that ends with it, so that a changed
// namespace cannot leak to other goroutines.
func onOwnThread(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- fn()
	}()
	return <-done
}
