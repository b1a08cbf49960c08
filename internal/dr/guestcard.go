package dr

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// guestCardPrefix begins the strings by which a guest is told the addresses of
// its cards. A hypervisor hands them over as SMBIOS OEM strings (type 11),
// which every kernel shows in /sys/firmware/dmi/tables.
const guestCardPrefix = "rebound.nic="

// GuestCard is what a guest is told of one of its cards.
type GuestCard struct {
	MAC string `json:"mac"`
	Address
}

// String returns the card as a guest is told of it.
func (c GuestCard) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic("dr: a guest card cannot be encoded: " + err.Error()) // strings only
	}
	return guestCardPrefix + string(b)
}

// ParseGuestCard reads a string that a guest was given; ok is false for one
// that is not about a card.
func ParseGuestCard(s string) (c GuestCard, ok bool, err error) {
	text, ok := strings.CutPrefix(s, guestCardPrefix)
	if !ok {
		return c, false, nil
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, true, fmt.Errorf("decode %q: %w", s, err)
	}
	return c, true, c.Validate()
}

// Validate reports the first thing that is wrong with an address.
func (a Address) Validate() error {
	if len(a.IPs) == 0 {
		return errors.New("an address without an IP")
	}
	for _, s := range a.IPs {
		if p, err := netip.ParsePrefix(s); err != nil {
			return fmt.Errorf("ip %q: want an address with its prefix, such as 192.0.2.7/24", s)
		} else if !p.Addr().IsGlobalUnicast() {
			return fmt.Errorf("ip %q is no unicast address", s)
		}
	}
	families := map[bool]bool{}
	for _, s := range a.Gateways {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("gateway %q is no address", s)
		}
		if families[ip.Is4()] {
			return fmt.Errorf("gateway %q is the second of its family", s)
		}
		families[ip.Is4()] = true
	}
	for _, s := range a.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("name server %q is no address", s)
		}
	}
	return nil
}
