package guest

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rebound/internal/agent"
	"rebound/internal/dr"
	"rebound/internal/lab/wire"
)

// bringUp gives every card an address: by DHCP, or, where nobody answers, an
// IPv4 link-local one made from its MAC (RFC 3927, without the probing: MACs
// are unique in the lab).
func (g *guest) bringUp(ctx context.Context) []wire.NIC {
	links, err := netlink.LinkList()
	if err != nil {
		g.con.event(wire.Event{Event: "error", Detail: fmt.Sprintf("list network cards: %v", err)})
		return nil
	}
	var (
		mu   sync.Mutex
		nics []wire.NIC
		wg   sync.WaitGroup
	)
	given := agent.SetAddresses(slog.New(slog.NewTextHandler(g.con, nil)))
	for _, link := range links {
		wg.Go(func() {
			nic, ok := givenAddress(link, given)
			var err error
			if !ok {
				nic, err = bringUpLink(ctx, link)
			}
			if err != nil {
				g.con.event(wire.Event{Event: "error", Detail: fmt.Sprintf("bring up %s: %v", link.Attrs().Name, err)})
			}
			if nic.Name == "" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			nics = append(nics, nic)
		})
	}
	wg.Wait()
	slices.SortFunc(nics, func(a, b wire.NIC) int { return cmp.Compare(a.Name, b.Name) })
	return nics
}

// givenAddress is the card as its site's target settings made it; ok is false
// for one that they leave alone.
func givenAddress(link netlink.Link, given []dr.GuestCard) (nic wire.NIC, ok bool) {
	attrs := link.Attrs()
	for _, card := range given {
		if !strings.EqualFold(card.MAC, attrs.HardwareAddr.String()) {
			continue
		}
		nic = wire.NIC{Name: attrs.Name, MAC: card.MAC}
		// What the kernel has, not what it was told.
		if addrs, err := netlink.AddrList(link, netlink.FAMILY_V4); err == nil && len(addrs) == 1 {
			nic.Address = addrs[0].IPNet.String()
		}
		if len(card.Gateways) > 0 {
			nic.Gateway = card.Gateways[0]
		}
		return nic, true
	}
	return nic, false
}

// bringUpLink configures one link; the loopback gives no NIC.
func bringUpLink(ctx context.Context, link netlink.Link) (wire.NIC, error) {
	attrs := link.Attrs()
	if err := netlink.LinkSetUp(link); err != nil {
		return wire.NIC{}, fmt.Errorf("set up: %w", err)
	}
	if attrs.Flags&net.FlagLoopback != 0 {
		return wire.NIC{}, nil
	}
	nic := wire.NIC{Name: attrs.Name, MAC: attrs.HardwareAddr.String()}
	l, err := askDHCP(ctx, attrs.Name, attrs.HardwareAddr)
	if err != nil {
		l = lease{addr: linkLocal(attrs.HardwareAddr)}
	} else {
		nic.DHCP = true
	}
	nic.Address = l.addr.String()
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &l.addr, Broadcast: broadcastOf(l.addr)}); err != nil {
		return nic, fmt.Errorf("add address: %w", err)
	}
	route := &netlink.Route{LinkIndex: attrs.Index, Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Priority: attrs.Index}
	if l.gateway != nil {
		nic.Gateway, route.Gw = l.gateway.String(), l.gateway
	} else {
		// Without a gateway every address is looked for on the link
		// itself, so that "not reachable" has been tried.
		route.Scope, route.Priority = unix.RT_SCOPE_LINK, 1000+attrs.Index
	}
	if err := netlink.RouteAdd(route); err != nil {
		return nic, fmt.Errorf("add route: %w", err)
	}
	return nic, nil
}

// linkLocal returns an address from 169.254.1.0 to 169.254.254.255.
func linkLocal(mac net.HardwareAddr) net.IPNet {
	h := fnv.New32a()
	_, _ = h.Write(mac)
	n := h.Sum32() % (254 * 256)
	return net.IPNet{IP: net.IPv4(169, 254, byte(1+n/256), byte(n)).To4(), Mask: net.CIDRMask(16, 32)}
}

func broadcastOf(n net.IPNet) net.IP {
	ip := n.IP.To4()
	out := make(net.IP, len(ip))
	for i := range ip {
		out[i] = ip[i] | ^n.Mask[i]
	}
	return out
}
