package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway"
	"rebound/internal/site/qemu"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// reprotectFlags say through which gateways a reprotect goes.
func reprotectFlags(cmd *cobra.Command, req *rest.OperationRequest) {
	req.Reprotect = &rest.ReprotectRequest{}
	r, f := req.Reprotect, cmd.Flags()
	f.StringVar((*string)(&r.ProcessServer), "process-server", "", "gateway of the site where the machines run (default: the one of before)")
	f.StringVar((*string)(&r.MasterTarget), "master-target", "", "gateway of the site that becomes the standby (default: the one of before)")
	f.StringVar(&r.Datastore, "datastore", "", "where disks are made that the standby site lacks")
	f.StringVar(&r.RetentionVolume, "retention-volume", "", "the master target's volume for the journal")
	f.Var(valuesFile{r}, "values", "JSON file with values of single machines: {\"web\": {\"datastore\": \"fast\"}}")
}

// valuesFile is the flag --values.
type valuesFile struct{ into *rest.ReprotectRequest }

// Type and String implement pflag.Value.
func (valuesFile) Type() string   { return "FILE" }
func (valuesFile) String() string { return "" }

// Set reads the file.
func (v valuesFile) Set(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v.into.Machines); err != nil {
		return fmt.Errorf("read values: %w", err)
	}
	return nil
}

func (o *serveGateway) gatewayRoles() []control.Role {
	var out []control.Role
	for _, r := range o.roles {
		out = append(out, control.Role(r))
	}
	return out
}

func (o *serveGateway) moreDatastores() []qemu.Datastore {
	var out []qemu.Datastore
	for _, name := range slices.Sorted(maps.Keys(o.datastores)) {
		out = append(out, qemu.Datastore{Name: name, Dir: o.datastores[name]})
	}
	return out
}

func (o *serveGateway) retentionVolumes() []gateway.RetentionVolume {
	var out []gateway.RetentionVolume
	for _, name := range slices.Sorted(maps.Keys(o.volumes)) {
		out = append(out, gateway.RetentionVolume{Name: name, Dir: o.volumes[name]})
	}
	return out
}

func (a *app) newGatewayPrerequisites() *cobra.Command {
	return &cobra.Command{
		Use: "prerequisites GATEWAY", Short: "Ask a gateway what it has for a reprotect",
		Long: `Ask a gateway now for its roles, retention volumes and datastores (each tried by
writing to it), its disks in use, and try the data path to every gateway of other sites.`,
		Example: "  rebound gateway prerequisites gw-home",
		Args:    exactly("GATEWAY"), ValidArgsFunction: a.completeGateways,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				p, err := c.Prerequisites(cmd.Context(), dr.GatewayID(args[0]))
				if err != nil {
					return err
				}
				return a.print(p, func(t *table) { prerequisiteRows(t, p) })
			})
		},
	}
}

func prerequisiteRows(t *table, p rest.Prerequisites) {
	t.head("WHAT", "NAME", "WHERE", "FREE", "TROUBLE")
	t.row("gateway", p.Gateway, p.DataAddr, fmt.Sprintf("%d of %d disks", p.DisksInUse, p.DiskLimit), or(p.SiteProblem))
	for _, r := range p.Roles {
		t.row("role", r, "", "", "-")
	}
	for _, v := range p.Volumes {
		t.row("volume", v.Name, v.Path, size(v.FreeBytes), or(v.Trouble))
	}
	for _, d := range p.Datastores {
		t.row("datastore", d.Name, d.Path, size(d.FreeBytes), "-")
	}
	for _, x := range p.Paths {
		t.row("path", x.To, x.Addr, "", or(x.Trouble))
	}
}
