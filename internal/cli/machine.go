package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newMachine() *cobra.Command {
	return a.parent("machine", "Machines at the sites: list, import, protect, start, stop", "  rebound machine list\n  rebound machine protect web db --to cloud --group shop",
		a.newMachineList(), a.newMachineShow(), a.newMachineImport(), a.newMachineProtect(), a.newMachineStart(), a.newMachineStop())
}

func (a *app) newMachineList() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "list", Short: "List the machines that the sites have", Example: "  rebound machine list --site home", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Machines(cmd.Context(), dr.SiteID(at))
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("SITE", "MACHINE", "STATE", "CPUS", "MEMORY", "DISKS", "ITEM", "NOTE")
					for _, m := range list {
						d := m.Definition
						t.row(m.Site, d.Name, m.State, d.CPUs, size(int64(d.MemoryMiB)<<20), diskSum(d), or(m.Item), machineNote(m))
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&at, "site", "", "of this site only")
	return cmd
}

func diskSum(d dr.Definition) string {
	var sum int64
	for _, disk := range d.Disks {
		sum += disk.SizeBytes
	}
	return fmt.Sprintf("%d, %s", len(d.Disks), size(sum))
}

func machineNote(m rest.Machine) string {
	switch {
	case m.Standby:
		return "standby"
	case m.Imported:
		return "imported"
	default:
		return "-"
	}
}

func (a *app) newMachineShow() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "show MACHINE", Short: "Show a machine, at each site that has it",
		Example: "  rebound machine show web\n  rebound machine show web --site home -o json",
		Args:    exactly("MACHINE"), ValidArgsFunction: a.completeMachines,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := machinesNamed(cmd.Context(), c, dr.MachineName(args[0]), dr.SiteID(at))
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					for _, m := range list {
						machineRows(t, m)
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&at, "site", "", "at this site only")
	return cmd
}

func machinesNamed(ctx context.Context, c *client.Client, name dr.MachineName, at dr.SiteID) ([]rest.Machine, error) {
	if at != "" {
		m, err := c.Machine(ctx, at, name)
		return []rest.Machine{m}, err
	}
	all, err := c.Machines(ctx, "")
	if err != nil {
		return nil, err
	}
	var found []rest.Machine
	for _, m := range all {
		if m.Definition.Name == name {
			found = append(found, m)
		}
	}
	if len(found) == 0 {
		return nil, problem.New(problem.UnknownMachine, "no site has a machine %q", name)
	}
	return found, nil
}

func machineRows(t *table, m rest.Machine) {
	d := m.Definition
	t.row("Machine", fmt.Sprintf("%s at %s", d.Name, m.Site))
	if d.Label != "" {
		t.row("Shown there as", d.Label)
	}
	t.row("State", m.State)
	t.row("Note", machineNote(m))
	t.row("Item", or(m.Item))
	t.row("UUID", d.UUID)
	t.row("CPUs, memory", fmt.Sprintf("%d, %s", d.CPUs, size(int64(d.MemoryMiB)<<20)))
	t.row("Board", fmt.Sprintf("%s, %s", d.MachineType, d.Firmware))
	for _, disk := range d.Disks {
		text := fmt.Sprintf("%s: %s on %s", disk.ID, size(disk.SizeBytes), disk.Bus)
		if disk.ReadOnly {
			text += ", read-only: not replicated"
		}
		t.row("Disk", text)
	}
	for _, n := range d.NICs {
		text := fmt.Sprintf("%s %s in %s", n.Model, n.MAC, n.Network)
		if n.Network == "" {
			text = fmt.Sprintf("%s %s, not connected", n.Model, n.MAC)
		}
		if n.Address != nil {
			text += ", address " + strings.Join(n.Address.IPs, " ")
		}
		t.row("NIC", text)
	}
	t.row("Booted", when(m.BootedAt))
	if m.Agent != nil {
		t.row("Agent", fmt.Sprintf("registered %s, heard %s", when(m.Agent.RegisteredAt), when(m.Agent.LastHeartbeat)))
	}
}

func (a *app) newMachineImport() *cobra.Command {
	var req rest.ImportMachine
	cmd := &cobra.Command{
		Use: "import --site SITE --qmp SOCKET", Short: "Take in a QEMU machine that somebody else started",
		Long: `Take a running QEMU machine into a site's inventory, without stopping it. SOCKET is the
path, on the gateway's host, of a QMP socket that nobody else is connected to
('rebound check --qmp SOCKET' tries it).`,
		Example: "  rebound machine import --site home --qmp /run/qemu/web.qmp --name web",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Site == "" || req.QMPSocket == "" {
				return usageError{errors.New("--site and --qmp are needed")}
			}
			return a.withClient(func(c *client.Client) error {
				m, err := c.ImportMachine(cmd.Context(), req)
				if err != nil {
					return err
				}
				return a.print(m, func(t *table) { machineRows(t, m) })
			})
		},
	}
	f := cmd.Flags()
	f.StringVar((*string)(&req.Site), "site", "", "the site whose gateway can reach the socket")
	f.StringVar(&req.QMPSocket, "qmp", "", "path of the QMP socket on the gateway's host")
	f.StringVar((*string)(&req.Name), "name", "", "name in the inventory (default: the machine's own)")
	return cmd
}

func (a *app) newMachineProtect() *cobra.Command {
	var req rest.ProtectRequest
	cmd := &cobra.Command{
		Use: "protect MACHINE... --to SITE", Short: "Replicate machines to another site",
		Long: `Protect machines of one site: create their standby at another site and begin the first
copy. Several machines become one group with one order of writes and need --group.

The job ends when the copy has begun; 'rebound group watch' shows it go on.`,
		Example: `  rebound machine protect web --to cloud
  rebound machine protect web db --to cloud --group shop --policy gold --dry-run`,
		Annotations: map[string]string{dryRunKey: "yes"},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name at least one machine")
			}
			return nil
		},
		ValidArgsFunction: a.completeMachines,
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.To == "" {
				return usageError{errors.New("--to is missing: the site to replicate to")}
			}
			for _, m := range args {
				req.Machines = append(req.Machines, dr.MachineName(m))
			}
			return a.withClient(func(c *client.Client) error { return a.protect(cmd.Context(), c, req) })
		},
	}
	f := cmd.Flags()
	f.StringVar((*string)(&req.Site), "site", "", "where the machines are (needed only when another site has one of the same name)")
	f.StringVar((*string)(&req.To), "to", "", "the site to replicate to")
	f.StringVar((*string)(&req.Policy), "policy", "", "replication policy (default: 'default')")
	f.StringVar((*string)(&req.Group), "group", "", "name of the group (default for one machine: its name)")
	return cmd
}

func (a *app) protect(ctx context.Context, c *client.Client, req rest.ProtectRequest) error {
	if a.dryRun {
		d, err := c.ProtectDryRun(ctx, req)
		if err != nil {
			return err
		}
		return a.print(d, func(t *table) { dryRunRows(t, d) })
	}
	job, err := c.Protect(ctx, req)
	if err != nil {
		return err
	}
	return a.follow(ctx, c, job)
}
