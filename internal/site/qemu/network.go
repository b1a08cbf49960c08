package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rebound/internal/problem"
	"rebound/internal/site"
)

// The kinds of networks.
const (
	// UserNetwork is QEMU's own NAT: a machine reaches out and nobody
	// reaches it, other machines neither.
	UserNetwork = "user"
	// BridgeNetwork is a bridge of the host.
	BridgeNetwork = "bridge"
)

// Network is one network of the site.
type Network struct {
	Name string `json:"name"`
	// Kind is UserNetwork or BridgeNetwork.
	Kind string `json:"kind"`
	// Bridge is the host's bridge of a BridgeNetwork; it must exist.
	Bridge string `json:"bridge,omitempty"`
	// Restrict keeps the machines of a UserNetwork from reaching anything
	// but what Forward names.
	Restrict bool `json:"restrict,omitempty"`
	// CIDR is the subnet that a UserNetwork gives its machines; empty:
	// QEMU's own, 10.0.2.0/24.
	CIDR string `json:"cidr,omitempty"`
	// Forward lists QEMU guestfwd rules of a UserNetwork, such as
	// "tcp:10.0.2.100:7000-tcp:127.0.0.1:7000".
	Forward []string `json:"forward,omitempty"`
}

// Validate reports what is wrong with a network's settings.
func (n Network) Validate() error {
	switch {
	case n.Name == "":
		return errors.New("network without a name")
	case n.Kind != UserNetwork && n.Kind != BridgeNetwork:
		return fmt.Errorf("network %s: kind %q: want %q or %q", n.Name, n.Kind, UserNetwork, BridgeNetwork)
	case n.Kind == BridgeNetwork && (n.Bridge == "" || len(n.Bridge) > maxInterfaceName):
		return fmt.Errorf("network %s: bridge %q: want the name of a bridge", n.Name, n.Bridge)
	case n.Kind == BridgeNetwork && (n.Restrict || n.CIDR != "" || len(n.Forward) > 0):
		return fmt.Errorf("network %s: restrict, cidr and forward are for user networks", n.Name)
	}
	if n.CIDR != "" {
		if _, _, err := net.ParseCIDR(n.CIDR); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	return nil
}

// loadNetworks returns the site's networks: of the configuration, of the
// datastore, or the default.
func loadNetworks(cfg Config) ([]Network, error) {
	networks := cfg.Networks
	if networks == nil {
		text, err := os.ReadFile(filepath.Join(cfg.Dir, "networks.json"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			networks = []Network{{Name: "default", Kind: UserNetwork}}
		case err != nil:
			return nil, fmt.Errorf("read networks: %w", err)
		default:
			if err := json.Unmarshal(text, &networks); err != nil {
				return nil, fmt.Errorf("read networks: %w", err)
			}
		}
	}
	seen := map[string]bool{}
	for _, n := range networks {
		if err := n.Validate(); err != nil {
			return nil, err
		}
		if seen[n.Name] {
			return nil, fmt.Errorf("network %s is configured twice", n.Name)
		}
		seen[n.Name] = true
	}
	return slices.Clone(networks), nil
}

// Networks returns the configured networks and the test networks that have
// members now.
func (d *Driver) Networks(context.Context) ([]site.Network, error) {
	var list []site.Network
	for _, n := range d.networks {
		list = append(list, site.Network{Name: n.Name, Kind: n.Kind})
	}
	members, err := d.testMembers("")
	if err != nil {
		return nil, err
	}
	var tests []string
	for _, m := range members {
		tests = append(tests, m.rec.Recovered.Network)
	}
	slices.Sort(tests)
	for _, name := range slices.Compact(tests) {
		list = append(list, site.Network{Name: name, Kind: BridgeNetwork, Test: true})
	}
	return list, nil
}

func (d *Driver) network(name string) (Network, error) {
	for _, n := range d.networks {
		if n.Name == name {
			return n, nil
		}
	}
	return Network{}, problem.New(problem.UnknownNetwork, "%s", name)
}

// userNetdev is QEMU's -netdev option of a user network.
func (n Network) userNetdev(id string) string {
	opts := []string{"user", "id=" + id}
	if n.Restrict {
		opts = append(opts, "restrict=on")
	}
	if n.CIDR != "" {
		opts = append(opts, "net="+n.CIDR)
	}
	for _, f := range n.Forward {
		opts = append(opts, "guestfwd="+strings.ReplaceAll(f, ",", ",,"))
	}
	return strings.Join(opts, ",")
}

// testMAC derives the address that a card has in a test: its own for ever,
// unicast, locally administered, other than the production one.
func testMAC(mac string) string {
	sum := sha256.Sum256([]byte("rebound test network card " + strings.ToLower(mac)))
	hw := net.HardwareAddr(sum[:6])
	hw[0] = hw[0]&^1 | 2
	if hw.String() == strings.ToLower(mac) {
		hw[5] ^= 1
	}
	return hw.String()
}

// member is a machine of a test network.
type member struct {
	m   *machine
	rec *record
}

// testMembers returns the machines that run tests in a network, or in any.
func (d *Driver) testMembers(network string) ([]member, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var list []member
	for _, name := range names {
		m := d.at(name)
		rec, err := m.record()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r := rec.Recovered; r != nil && r.Test && (network == "" || r.Network == network) {
			list = append(list, member{m, rec})
		}
	}
	return list, nil
}
