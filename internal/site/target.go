package site

import (
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// TargetSettings say how a machine is to be at a site where it is recovered; a
// zero field leaves what the definition of the moment says.
type TargetSettings struct {
	// Name is what the site's hypervisor shows. To Rebound the machine keeps
	// its own name.
	Name      string `json:"name,omitempty" maxLength:"63"`
	CPUs      int    `json:"cpus,omitempty" minimum:"0"`
	MemoryMiB int    `json:"memoryMiB,omitempty" minimum:"0"`
	// BootOrder lists disks, first to be tried first.
	BootOrder []dr.DiskID   `json:"bootOrder,omitempty"`
	NICs      []NICSettings `json:"nics,omitempty"`
}

// NICSettings are the target settings of one network card.
type NICSettings struct {
	// NIC is the card's number in the definition, from 0.
	NIC int `json:"nic" minimum:"0"`
	// Network at the site, and the network in a test failover.
	Network     string `json:"network,omitempty"`
	TestNetwork string `json:"testNetwork,omitempty"`
	// MAC is keep (also when empty) or new. In a test it is always another.
	MAC string `json:"mac,omitempty" enum:"keep,new"`
	// Address is set in the guest by its agent, at boot.
	Address *dr.Address `json:"address,omitempty"`
}

// The values of NICSettings.MAC and Target.Unmapped.
const (
	KeepMAC         = "keep"
	NewMAC          = "new"
	RefuseUnmapped  = "refuse"
	IsolateUnmapped = "isolate"
)

// MappedNetwork is where the machines of one network of the other site go.
type MappedNetwork struct {
	Network string `json:"network"`
	Test    string `json:"test,omitempty"`
}

// Target is all that turns the definition of a moment into that of the machine
// at the site: settings of its own first, then the mapping of its networks,
// then a network of the same name.
type Target struct {
	Settings TargetSettings `json:"settings,omitzero"`
	// Networks is the mapping, by the name of the network at the other site.
	Networks map[string]MappedNetwork `json:"networks,omitempty"`
	// Unmapped is RefuseUnmapped (also when empty) or IsolateUnmapped.
	Unmapped string `json:"unmapped,omitempty"`
}

// TargetOf says where a machine is to be made.
type TargetOf struct {
	Site dr.SiteID
	// Networks are those that the site has.
	Networks []Network
	// Fallback is for cards whose network the site lacks, of a failover;
	// of a test the network of every card.
	Fallback string
	Test     bool
}

// Apply returns the definition as it is to be at the site. The warnings name
// what could not be kept to. It is pure and gives the same answer each time.
func (t Target) Apply(def dr.Definition, at TargetOf) (dr.Definition, []string, error) {
	out := restored(def)
	was := out.Shape()
	s := t.Settings
	if s.Name != "" {
		out.Label = s.Name
	}
	if s.CPUs > 0 {
		out.CPUs = s.CPUs
	}
	if s.MemoryMiB > 0 {
		out.MemoryMiB = s.MemoryMiB
	}
	if len(s.BootOrder) > 0 {
		if id, ok := unknownDisk(out, s.BootOrder); ok {
			return def, nil, problem.New(problem.UnknownDisk, "machine %s has no disk %s to boot from", def.Name, id)
		}
		out.BootOrder = slices.Clone(s.BootOrder)
	}
	was.NICs = slices.Clone(was.NICs)
	warnings, err := t.applyNICs(def, &out, at)
	if err != nil {
		return def, nil, err
	}
	if set := out.Shape(); !sameShape(was, set) {
		set.NICs = slices.Clone(set.NICs)
		out.Replaced = &dr.Replaced{Was: was, Set: set}
	}
	return out, warnings, nil
}

func (t Target) applyNICs(def dr.Definition, out *dr.Definition, at TargetOf) (warnings []string, err error) {
	for _, s := range t.Settings.NICs {
		if s.NIC >= len(out.NICs) {
			warnings = append(warnings, fmt.Sprintf("machine %s has no network card %d at this moment; its settings were left out", def.Name, s.NIC))
		}
	}
	for i := range out.NICs {
		set := t.Settings.nic(i)
		network, ok := t.network(def.NICs[i].Network, out.NICs[i].Network, set, at)
		switch {
		case ok:
			out.NICs[i].Network = network
		case at.Test:
			return nil, problem.New(problem.NetworkNotMapped, "network card %d of %s: nothing says which test network of site %s stands for %q; name one in the request", i, def.Name, at.Site, def.NICs[i].Network)
		case t.Unmapped == IsolateUnmapped:
			out.NICs[i].Network = ""
			warnings = append(warnings, fmt.Sprintf("network card %d of %s is not connected: nothing says which network of site %s stands for %q", i, def.Name, at.Site, def.NICs[i].Network))
		default:
			return nil, problem.New(problem.NetworkNotMapped, "network card %d of %s: nothing says which network of site %s stands for %q", i, def.Name, at.Site, def.NICs[i].Network)
		}
		if set.MAC == NewMAC {
			out.NICs[i].MAC = targetMAC(at.Site, out.NICs[i].MAC)
		}
		if set.Address != nil {
			out.NICs[i].Address = set.Address
		}
	}
	return warnings, nil
}

// Missing names the cards of a definition for which nothing says to which network
// of the site they are to be connected.
func (t Target) Missing(def dr.Definition, at TargetOf) []string {
	var out []string
	home := restored(def)
	for i, nic := range def.NICs {
		if _, ok := t.network(nic.Network, home.NICs[i].Network, t.Settings.nic(i), at); !ok {
			out = append(out, fmt.Sprintf("card %d of %s (%s)", i, def.Name, nic.Network))
		}
	}
	return out
}

// network finds the network of a card that was on source at the other site, and
// on home when it was last at this one.
func (t Target) network(source, home string, set NICSettings, at TargetOf) (string, bool) {
	mapped := t.Networks[source]
	if at.Test {
		for _, name := range []string{at.Fallback, set.TestNetwork, mapped.Test} {
			if name != "" {
				return name, true
			}
		}
		return "", false
	}
	if set.Network != "" {
		return set.Network, true
	}
	if mapped.Network != "" {
		return mapped.Network, true
	}
	has := func(name string) bool {
		return slices.ContainsFunc(at.Networks, func(n Network) bool { return n.Name == name && !n.Test })
	}
	for _, name := range []string{home, source} {
		if has(name) {
			return name, true
		}
	}
	if at.Fallback != "" {
		return at.Fallback, true
	}
	return "", source == "" // a card that was not connected stays so
}

func (s TargetSettings) nic(i int) NICSettings {
	for _, n := range s.NICs {
		if n.NIC == i {
			return n
		}
	}
	return NICSettings{NIC: i}
}

func unknownDisk(def dr.Definition, order []dr.DiskID) (dr.DiskID, bool) {
	for _, id := range order {
		if !slices.ContainsFunc(def.Disks, func(d dr.DiskSpec) bool { return d.ID == id }) {
			return id, true
		}
	}
	return "", false
}

// restored undoes what the settings of the site that is left replaced, as far
// as nobody changed it there by hand.
func restored(def dr.Definition) dr.Definition {
	out := def
	out.Replaced = nil
	out.NICs = slices.Clone(def.NICs)
	r := def.Replaced
	if r == nil {
		return out
	}
	if out.Label == r.Set.Label {
		out.Label = r.Was.Label
	}
	if out.CPUs == r.Set.CPUs {
		out.CPUs = r.Was.CPUs
	}
	if out.MemoryMiB == r.Set.MemoryMiB {
		out.MemoryMiB = r.Was.MemoryMiB
	}
	if slices.Equal(out.BootOrder, r.Set.BootOrder) {
		out.BootOrder = slices.Clone(r.Was.BootOrder)
	}
	for i := range out.NICs {
		if i >= len(r.Set.NICs) || i >= len(r.Was.NICs) {
			break
		}
		set, was, nic := r.Set.NICs[i], r.Was.NICs[i], &out.NICs[i]
		if nic.Network == set.Network {
			nic.Network = was.Network
		}
		if nic.MAC == set.MAC {
			nic.MAC = was.MAC
		}
		if sameAddress(nic.Address, set.Address) {
			nic.Address = was.Address
		}
	}
	return out
}

func sameShape(a, b dr.Shape) bool {
	return a.Label == b.Label && a.CPUs == b.CPUs && a.MemoryMiB == b.MemoryMiB && slices.Equal(a.BootOrder, b.BootOrder) &&
		slices.EqualFunc(a.NICs, b.NICs, func(x, y dr.NIC) bool {
			return x.MAC == y.MAC && x.Network == y.Network && x.Model == y.Model && sameAddress(x.Address, y.Address)
		})
}

func sameAddress(a, b *dr.Address) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.IPs, b.IPs) && slices.Equal(a.Gateways, b.Gateways) && slices.Equal(a.DNS, b.DNS)
}

// targetMAC derives the address that a card has at a site whose settings ask for
// a new one: the same each time, unicast, locally administered.
func targetMAC(at dr.SiteID, mac string) string {
	sum := sha256.Sum256([]byte("rebound target network card " + string(at) + " " + strings.ToLower(mac)))
	hw := net.HardwareAddr(sum[:6])
	hw[0] = hw[0]&^1 | 2
	return hw.String()
}
