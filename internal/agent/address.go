package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"rebound/internal/dr"
)

// Where a guest finds what its hypervisor tells it, and where its name servers
// are written down.
const (
	smbiosTable = "/sys/firmware/dmi/tables/DMI"
	resolvConf  = "/etc/resolv.conf"
)

// SetAddresses configures the cards for which this machine was given addresses
// by its site, and returns them. A machine that was given none is left as it is,
// and what goes wrong with one card does not stop the others. Repeating it
// changes nothing.
func SetAddresses(log *slog.Logger) (set []dr.GuestCard) {
	table, err := os.ReadFile(smbiosTable)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		log.Warn("read the hypervisor's strings", "error", err)
		return nil
	}
	var dns []string
	for _, s := range oemStrings(table) {
		card, ok, err := dr.ParseGuestCard(s)
		if ok && err == nil {
			err = setAddress(card)
		}
		switch {
		case err != nil:
			log.Error("set address", "card", card.MAC, "error", err)
		case ok:
			log.Info("address set", "card", card.MAC, "ips", card.IPs, "gateways", card.Gateways)
			dns = append(dns, card.DNS...)
			set = append(set, card)
		}
	}
	if err := setDNS(resolvConf, dns); err != nil {
		log.Error("set name servers", "error", err)
	}
	return set
}

// oemStrings returns the strings of every SMBIOS structure of type 11 (OEM
// strings) in a table: DMTF DSP0134, 6.1.2 and 7.12. A damaged tail is left
// out.
func oemStrings(table []byte) []string {
	const header, oem, end = 4, 11, 127
	var out []string
	for len(table) >= header {
		kind, length := table[0], int(table[1])
		if length < header || length > len(table) || kind == end {
			break
		}
		// The formatted part, then strings that end with a NUL each, then
		// one more NUL; without strings two.
		tail := table[length:]
		stop := bytes.Index(tail, []byte{0, 0})
		if stop < 0 {
			break
		}
		if kind == oem && stop > 0 {
			out = append(out, strings.Split(string(tail[:stop]), "\x00")...)
		}
		table = tail[stop+2:]
	}
	return out
}

// setAddress makes the card's addresses and default routes exactly the given
// ones.
func setAddress(card dr.GuestCard) error {
	link, err := linkOf(card.MAC)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	var want []netip.Prefix
	for _, s := range card.IPs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("read ip: %w", err)
		}
		want = append(want, p)
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, link.Attrs().Name, err)
		}
	}
	if err := dropOthers(link, want); err != nil {
		return err
	}
	for _, s := range card.Gateways {
		gw := net.ParseIP(s)
		bits := 128
		if four := gw.To4(); four != nil {
			gw, bits = four, 32
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}, Gw: gw}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("set default route by %s: %w", s, err)
		}
	}
	return nil
}

// linkOf finds the card of a MAC.
func linkOf(mac string) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	for _, l := range links {
		if strings.EqualFold(l.Attrs().HardwareAddr.String(), mac) {
			return l, nil
		}
	}
	return nil, fmt.Errorf("this machine has no card %s", mac)
}

// dropOthers takes every address of a wanted one's family off the card that is
// not wanted: that of the other site must not go on answering. Link-local ones
// stay. The kernel takes their routes off with them.
func dropOthers(link netlink.Link, want []netip.Prefix) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range have {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		ones, _ := a.Mask.Size()
		if !ok || ip.Is6() && ip.IsLinkLocalUnicast() || slices.Contains(want, netip.PrefixFrom(ip, ones)) {
			continue
		}
		if !slices.ContainsFunc(want, func(p netip.Prefix) bool { return p.Addr().Is4() == ip.Is4() }) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("take %s off %s: %w", ip, link.Attrs().Name, err)
		}
	}
	return nil
}

// setDNS writes the name servers down; without any the file stays as it is.
func setDNS(path string, servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	text := "# written by rebound agent, from the machine's target settings\n"
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
