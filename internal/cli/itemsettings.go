package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// settingsFlags change the target settings of one side that were given.
type settingsFlags struct {
	home                  bool
	name                  string
	cpus, memory          int
	boot                  []string
	networks, tests, macs []string
	ips, gateways, dns    []string
	clear                 bool
}

func (s *settingsFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.home, "home", false, "the settings after a failback (default: those after a failover)")
	f.StringVar(&s.name, "name", "", "name that the hypervisor shows there")
	f.IntVar(&s.cpus, "cpus", 0, "processors; 0: as they were")
	f.IntVar(&s.memory, "memory", 0, "MiB of memory; 0: as it was")
	f.StringSliceVar(&s.boot, "boot-order", nil, "disks, first to be tried first, such as disk1,disk0")
	f.StringSliceVar(&s.networks, "network", nil, "CARD=NETWORK, such as 0=dmz; repeat for more cards")
	f.StringSliceVar(&s.tests, "test-network", nil, "CARD=NETWORK of test failovers")
	f.StringSliceVar(&s.macs, "mac", nil, "CARD=keep or CARD=new")
	f.StringArrayVar(&s.ips, "ip", nil, "CARD=ADDRESS/PREFIX[,…], set in the guest by its agent")
	f.StringArrayVar(&s.gateways, "gateway", nil, "CARD=ADDRESS[,…] of the default gateways")
	f.StringArrayVar(&s.dns, "dns", nil, "CARD=ADDRESS[,…] of the name servers")
	f.BoolVar(&s.clear, "clear", false, "forget the side's settings first")
}

// given reports whether anything is to be changed.
func (s *settingsFlags) given(cmd *cobra.Command) bool {
	for _, name := range []string{"name", "cpus", "memory", "boot-order", "network", "test-network", "mac", "ip", "gateway", "dns", "clear"} {
		if cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

func (s *settingsFlags) apply(cmd *cobra.Command, all *rest.ItemSettings) error {
	side := &all.Recovery
	if s.home {
		side = &all.Home
	}
	to := site.TargetSettings{}
	if *side != nil && !s.clear {
		to = **side
	}
	if cmd.Flags().Changed("name") {
		to.Name = s.name
	}
	if cmd.Flags().Changed("cpus") {
		to.CPUs = s.cpus
	}
	if cmd.Flags().Changed("memory") {
		to.MemoryMiB = s.memory
	}
	if cmd.Flags().Changed("boot-order") {
		to.BootOrder = nil
		for _, id := range s.boot {
			to.BootOrder = append(to.BootOrder, dr.DiskID(id))
		}
	}
	if err := s.cards(&to); err != nil {
		return usageError{err}
	}
	*side = &to
	if sameJSON(to, site.TargetSettings{}) {
		*side = nil
	}
	return nil
}

// cards changes the settings of single cards.
func (s *settingsFlags) cards(to *site.TargetSettings) error {
	split := func(v string) []string { return strings.Split(v, ",") }
	address := func(n *site.NICSettings) *dr.Address {
		if n.Address == nil {
			n.Address = &dr.Address{}
		}
		return n.Address
	}
	for _, f := range []struct {
		flag   string
		values []string
		set    func(*site.NICSettings, string)
	}{
		{"network", s.networks, func(n *site.NICSettings, v string) { n.Network = v }},
		{"test-network", s.tests, func(n *site.NICSettings, v string) { n.TestNetwork = v }},
		{"mac", s.macs, func(n *site.NICSettings, v string) { n.MAC = v }},
		{"ip", s.ips, func(n *site.NICSettings, v string) { address(n).IPs = split(v) }},
		{"gateway", s.gateways, func(n *site.NICSettings, v string) { address(n).Gateways = split(v) }},
		{"dns", s.dns, func(n *site.NICSettings, v string) { address(n).DNS = split(v) }},
	} {
		for _, text := range f.values {
			number, value, ok := strings.Cut(text, "=")
			n, err := strconv.Atoi(number)
			if !ok || err != nil || n < 0 {
				return fmt.Errorf("--%s %q: want CARD=VALUE, cards counted from 0", f.flag, text)
			}
			i := slices.IndexFunc(to.NICs, func(x site.NICSettings) bool { return x.NIC == n })
			if i < 0 {
				to.NICs = append(to.NICs, site.NICSettings{NIC: n})
				i = len(to.NICs) - 1
			}
			f.set(&to.NICs[i], value)
		}
	}
	return nil
}

func (a *app) newItemSettings() *cobra.Command {
	var flags settingsFlags
	cmd := &cobra.Command{
		Use: "settings ITEM", Short: "Show or change how a machine is to be at the other site",
		Long: `Show a machine's target settings, or change what is given of them. They hold when the machine
is recovered at the other site: first comes its definition of the moment, then these
settings, then the mapping of its networks. On the way back what they replaced is
restored, but for what was changed by hand meanwhile; --home settings go before that.

Addresses are handed to the guest by its hypervisor and set at boot by 'rebound agent'.`,
		Example: `  rebound item settings web
  rebound item settings web --cpus 2 --memory 2048 --network 0=dmz --mac 0=new
  rebound item settings web --ip 0=192.0.2.7/24 --gateway 0=192.0.2.1 --dns 0=192.0.2.53`,
		Args: exactly("ITEM"), ValidArgsFunction: a.completeItems,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				all, err := c.ItemSettings(cmd.Context(), dr.ItemID(args[0]))
				if err != nil {
					return err
				}
				if flags.given(cmd) {
					if err := flags.apply(cmd, &all); err != nil {
						return err
					}
					if all, err = c.PutItemSettings(cmd.Context(), all); err != nil {
						return err
					}
				}
				return a.print(all, func(t *table) {
					settingsRows(t, "After a failover", all.Recovery)
					settingsRows(t, "After a failback", all.Home)
				})
			})
		},
	}
	flags.add(cmd)
	return cmd
}

func settingsRows(t *table, title string, s *site.TargetSettings) {
	if s == nil {
		t.row(title, "as it was")
		return
	}
	t.row(title, "")
	for _, r := range []struct {
		name  string
		value any
		set   bool
	}{
		{"Name", s.Name, s.Name != ""},
		{"CPUs", s.CPUs, s.CPUs > 0},
		{"Memory", size(int64(s.MemoryMiB) << 20), s.MemoryMiB > 0},
		{"Boot order", join(s.BootOrder), len(s.BootOrder) > 0},
	} {
		if r.set {
			t.row("  "+r.name, r.value)
		}
	}
	for _, n := range s.NICs {
		text := []string{}
		for _, p := range []struct{ name, value string }{{"network", n.Network}, {"in tests", n.TestNetwork}, {"MAC", n.MAC}} {
			if p.value != "" {
				text = append(text, p.name+" "+p.value)
			}
		}
		if n.Address != nil {
			text = append(text, "address "+strings.Join(n.Address.IPs, " "))
		}
		t.row(fmt.Sprintf("  Card %d", n.NIC), strings.Join(text, ", "))
	}
}
