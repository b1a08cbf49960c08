package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// lease is what a DHCP server gave. The lab's guests live for less than the
// shortest lease: they do not renew.
type lease struct {
	addr    net.IPNet
	gateway net.IP
}

// Somebody who gives addresses answers within dhcpTimeout; a request is
// repeated every dhcpRepeat.
const (
	dhcpTimeout = time.Second
	dhcpRepeat  = 250 * time.Millisecond
)

// askDHCP asks for an address on a card that has none. It asks for replies by
// broadcast, so that an ordinary socket hears them.
func askDHCP(ctx context.Context, card string, mac net.HardwareAddr) (lease, error) {
	conn, err := listenOn(ctx, card, "0.0.0.0:68")
	if err != nil {
		return lease{}, err
	}
	defer conn.Close()
	discover, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true))
	if err != nil {
		return lease{}, fmt.Errorf("make DHCP request: %w", err)
	}
	deadline := time.Now().Add(dhcpTimeout)
	offer, err := exchange(conn, discover, dhcpv4.MessageTypeOffer, deadline)
	if err != nil {
		return lease{}, err
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, dhcpv4.WithBroadcast(true))
	if err != nil {
		return lease{}, fmt.Errorf("make DHCP request: %w", err)
	}
	ack, err := exchange(conn, request, dhcpv4.MessageTypeAck, deadline)
	if err != nil {
		return lease{}, err
	}
	l := lease{addr: net.IPNet{IP: ack.YourIPAddr.To4(), Mask: ack.SubnetMask()}}
	if l.addr.Mask == nil {
		l.addr.Mask = l.addr.IP.DefaultMask()
	}
	if routers := ack.Router(); len(routers) > 0 {
		l.gateway = routers[0].To4()
	}
	return l, nil
}

// exchange sends a message until the answer of the wanted type comes.
func exchange(conn net.PacketConn, m *dhcpv4.DHCPv4, want dhcpv4.MessageType, deadline time.Time) (*dhcpv4.DHCPv4, error) {
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}
	buf := make([]byte, 1500)
	for time.Now().Before(deadline) {
		if _, err := conn.WriteTo(m.ToBytes(), to); err != nil {
			return nil, fmt.Errorf("send DHCP request: %w", err)
		}
		next := time.Now().Add(dhcpRepeat)
		if err := conn.SetReadDeadline(next); err != nil {
			return nil, fmt.Errorf("set deadline: %w", err)
		}
		for {
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("read DHCP answer: %w", err)
			}
			answer, err := dhcpv4.FromBytes(buf[:n])
			if err == nil && answer.TransactionID == m.TransactionID && answer.MessageType() == want {
				return answer, nil
			}
		}
	}
	return nil, errors.New("nobody answers DHCP requests")
}

// listenOn opens a UDP socket that hears and speaks on one card only, to
// broadcast addresses too.
func listenOn(ctx context.Context, card, addr string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) {
			inner = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), card),
			)
		})
		return errors.Join(err, inner)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", addr)
	if err != nil {
		return nil, fmt.Errorf("open socket on %s: %w", card, err)
	}
	return conn, nil
}

// dialerOn dials through one card only.
func dialerOn(card string) *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { inner = unix.BindToDevice(int(fd), card) })
		return errors.Join(err, inner)
	}}
}
