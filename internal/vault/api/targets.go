package api

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/dr"
	"rebound/internal/orchestrator"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// MappingIn is a network mapping in the path; huma reads embedded structs only when exported.
type MappingIn struct {
	Mapping dr.MappingID `path:"mapping"`
}

type putMappingIn struct {
	MappingIn
	Body rest.NetworkMapping
}

type putSettingsIn struct {
	IDIn
	Body rest.ItemSettings
}

func (s *Server) targetSettingRoutes(api huma.API) {
	add(api, route("GET", "/mappings", "list-mappings", "List the network mappings"), s.listMappings)
	add(api, route("GET", "/mappings/{mapping}", "show-mapping", "Show a network mapping"), func(ctx context.Context, in *MappingIn) (*reply[rest.NetworkMapping], error) {
		var out rest.NetworkMapping
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Mapping(in.Mapping); return err })
		return &reply[rest.NetworkMapping]{out}, unknownMapping(err, in.Mapping)
	})
	add(api, route("PUT", "/mappings/{mapping}", "put-mapping", "Make or replace a network mapping"), s.putMapping)
	add(api, route("DELETE", "/mappings/{mapping}", "delete-mapping", "Delete a network mapping"), func(ctx context.Context, in *MappingIn) (*struct{}, error) {
		return nil, unknownMapping(s.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeleteMapping(in.Mapping) }), in.Mapping)
	})
	add(api, route("GET", "/items/{id}/settings", "show-item-settings", "Show a machine's target settings"), func(ctx context.Context, in *IDIn) (*reply[rest.ItemSettings], error) {
		var out rest.ItemSettings
		err := s.view(ctx, func(tx *store.Tx) (err error) {
			if _, _, err := findItem(tx, in.ID); err != nil {
				return err
			}
			out, err = tx.ItemSettings(dr.ItemID(in.ID))
			return err
		})
		return &reply[rest.ItemSettings]{out}, err
	})
	add(api, route("PUT", "/items/{id}/settings", "put-item-settings", "Replace a machine's target settings"), s.putItemSettings)
}

func (s *Server) listMappings(ctx context.Context, in *struct {
	ListIn
	Site dr.SiteID `query:"site" doc:"either end is at it"`
},
) (*listReply[rest.NetworkMapping], error) {
	read := func(tx *store.Tx) ([]rest.NetworkMapping, error) {
		all, err := tx.Mappings()
		return keepIf(all, func(m rest.NetworkMapping) bool { return wants(in.Site, m.From.Site) || wants(in.Site, m.To.Site) }), err
	}
	return pageRead(ctx, s, in.ListIn, read, func(m rest.NetworkMapping) string { return string(m.ID) }, order[rest.NetworkMapping]{
		"id":   func(m rest.NetworkMapping) any { return m.ID },
		"from": func(m rest.NetworkMapping) any { return string(m.From.Site) + "/" + m.From.Network },
		"to":   func(m rest.NetworkMapping) any { return string(m.To.Site) + "/" + m.To.Network },
	})
}

func unknownMapping(err error, id dr.MappingID) error {
	return notFound(err, problem.UnknownMapping, "there is no network mapping %q", id)
}

// putMapping keeps a mapping whose networks the sites have, and that says
// nothing else than another one.
func (s *Server) putMapping(ctx context.Context, in *putMappingIn) (*reply[rest.NetworkMapping], error) {
	m := in.Body
	if m.ID != in.Mapping {
		return nil, problem.New(problem.InvalidRequest, "the body names mapping %q, the path %q", m.ID, in.Mapping)
	}
	if err := dr.ValidName(string(m.ID)); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	if m.From.Site == m.To.Site {
		return nil, problem.New(problem.InvalidRequest, "a mapping joins two sites, not %s with itself", m.From.Site)
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		for _, end := range []rest.NetworkMapEnd{m.From, m.To} {
			if err := checkMapEnd(tx, end); err != nil {
				return err
			}
		}
		others, err := tx.Mappings()
		if err != nil {
			return err
		}
		for _, o := range others {
			if err := clash(m, o); err != nil {
				return err
			}
		}
		return tx.PutMapping(m)
	})
	return &reply[rest.NetworkMapping]{m}, err
}

func checkMapEnd(tx *store.Tx, end rest.NetworkMapEnd) error {
	row, err := tx.Site(end.Site)
	if err != nil {
		return notFound(err, problem.UnknownSite, "there is no site %q", end.Site)
	}
	if err := siteHas(row, end.Network); err != nil {
		return err
	}
	return testApart(row, end.TestNetwork)
}

// siteHas refuses a network that the site does not have. What a site has is not
// known before its first gateway has connected.
func siteHas(row store.Site, network string) error {
	if len(row.Networks) == 0 || slices.ContainsFunc(row.Networks, func(n site.Network) bool { return n.Name == network && !n.Test }) {
		return nil
	}
	return problem.New(problem.UnknownNetwork, "site %s has no network %q", row.ID, network)
}

// testApart refuses a test network that is one of production's.
func testApart(row store.Site, network string) error {
	if slices.ContainsFunc(row.Networks, func(n site.Network) bool { return n.Name == network && !n.Test }) {
		return problem.New(problem.InvalidRequest, "network %q of site %s is one of production's; a test network joins test machines and nothing else", network, row.ID)
	}
	return nil
}

// clash refuses two mappings that send one network to two places.
func clash(m, o rest.NetworkMapping) error {
	if m.ID == o.ID {
		return nil
	}
	for _, a := range store.Ways(m) {
		for _, b := range store.Ways(o) {
			if a[0].Site == b[0].Site && a[0].Network == b[0].Network && a[1].Site == b[1].Site {
				return problem.New(problem.NameTaken, "mapping %s says already where network %s of %s goes at %s; a mapping of several networks to one is oneWay", o.ID, a[0].Network, a[0].Site, a[1].Site)
			}
		}
	}
	return nil
}

func (s *Server) putItemSettings(ctx context.Context, in *putSettingsIn) (*reply[rest.ItemSettings], error) {
	next := in.Body
	next.Item = dr.ItemID(in.ID)
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		g, _, err := findItem(tx, in.ID)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(g.Members, func(m store.Member) bool { return m.Item == next.Item })
		for _, side := range []struct {
			name     string
			from, at dr.SiteID
			set      *site.TargetSettings
		}{{"recovery", g.Home, g.Recovery, next.Recovery}, {"home", g.Recovery, g.Home, next.Home}} {
			if side.set == nil {
				continue
			}
			if err := checkSettings(tx, &g, g.Members[i].Machine, side.at, *side.set); err != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
		}
		return tx.PutItemSettings(next)
	})
	return &reply[rest.ItemSettings]{next}, err
}

// checkSettings refuses what the site cannot do, as far as it can be told now:
// the definition of a moment may have other cards and disks.
func checkSettings(tx *store.Tx, g *store.Group, name dr.MachineName, at dr.SiteID, set site.TargetSettings) error {
	row, err := tx.Site(at)
	if err != nil {
		return err
	}
	if err := checkCards(row, set); err != nil {
		return err
	}
	m, err := tx.Machine(g.Active, name)
	if errors.Is(err, store.ErrNotFound) {
		m.Definition.Name = name
	} else if err != nil {
		return err
	} else if err := checkParts(m.Definition, set); err != nil {
		return err
	}
	def := m.Definition
	def.Label, def.CPUs, def.MemoryMiB = set.Name, set.CPUs, set.MemoryMiB
	return orchestrator.CheckTarget(tx, g, row, def)
}

func checkCards(row store.Site, set site.TargetSettings) error {
	seen := map[int]bool{}
	for _, n := range set.NICs {
		if seen[n.NIC] {
			return problem.New(problem.InvalidRequest, "network card %d is named twice", n.NIC)
		}
		seen[n.NIC] = true
		if n.Network != "" {
			if err := siteHas(row, n.Network); err != nil {
				return err
			}
		}
		if n.TestNetwork != "" {
			if err := testApart(row, n.TestNetwork); err != nil {
				return err
			}
		}
		if n.Address != nil {
			if err := n.Address.Validate(); err != nil {
				return problem.Wrap(err, problem.InvalidRequest, "network card %d: %v", n.NIC, err)
			}
		}
	}
	return nil
}

// checkParts refuses settings of cards and disks that the machine does not have.
func checkParts(def dr.Definition, set site.TargetSettings) error {
	for _, n := range set.NICs {
		if n.NIC >= len(def.NICs) {
			return problem.New(problem.InvalidRequest, "machine %s has %d network cards, numbered from 0, and no card %d", def.Name, len(def.NICs), n.NIC)
		}
	}
	for i, id := range set.BootOrder {
		if !slices.ContainsFunc(def.Disks, func(d dr.DiskSpec) bool { return d.ID == id }) {
			return problem.New(problem.UnknownDisk, "machine %s has no disk %s to boot from", def.Name, id)
		}
		if slices.Contains(set.BootOrder[:i], id) {
			return problem.New(problem.InvalidRequest, "the boot order names disk %s twice", id)
		}
	}
	return nil
}
