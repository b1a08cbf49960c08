package store

import (
	"errors"

	"rebound/internal/dr"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// PutMapping adds or replaces a network mapping.
func (t *Tx) PutMapping(m rest.NetworkMapping) error {
	doc, err := docOf(m)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO mappings(id, from_site, to_site, doc) VALUES(?, ?, ?, ?) ON CONFLICT(id) DO UPDATE SET from_site = excluded.from_site, to_site = excluded.to_site, doc = excluded.doc", m.ID, m.From.Site, m.To.Site, doc)
	return err
}

// Mapping reads a network mapping.
func (t *Tx) Mapping(id dr.MappingID) (rest.NetworkMapping, error) {
	return readDoc[rest.NetworkMapping](t, "SELECT doc FROM mappings WHERE id = ?", id)
}

// Mappings lists the network mappings by name.
func (t *Tx) Mappings() ([]rest.NetworkMapping, error) {
	return readDocs[rest.NetworkMapping](t, "SELECT doc FROM mappings ORDER BY id")
}

// DeleteMapping removes a network mapping.
func (t *Tx) DeleteMapping(id dr.MappingID) error {
	return t.must1(t.exec("DELETE FROM mappings WHERE id = ?", id))
}

// MappedNetworks returns where the networks of one site go at another, by the
// name that they have at the first.
func (t *Tx) MappedNetworks(from, to dr.SiteID) (map[string]site.MappedNetwork, error) {
	all, err := t.Mappings()
	if err != nil {
		return nil, err
	}
	out := map[string]site.MappedNetwork{}
	for _, m := range all {
		for _, way := range Ways(m) {
			if way[0].Site == from && way[1].Site == to {
				out[way[0].Network] = site.MappedNetwork{Network: way[1].Network, Test: way[1].TestNetwork}
			}
		}
	}
	return out, nil
}

// Ways lists the directions in which a mapping holds: from, to.
func Ways(m rest.NetworkMapping) [][2]rest.NetworkMapEnd {
	out := [][2]rest.NetworkMapEnd{{m.From, m.To}}
	if !m.OneWay {
		out = append(out, [2]rest.NetworkMapEnd{m.To, m.From})
	}
	return out
}

// PutItemSettings replaces an item's target settings.
func (t *Tx) PutItemSettings(s rest.ItemSettings) error {
	doc, err := docOf(s)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO item_settings(item, doc) VALUES(?, ?) ON CONFLICT(item) DO UPDATE SET doc = excluded.doc", s.Item, doc)
	return err
}

// ItemSettings reads an item's target settings; one that has none gets the
// empty ones.
func (t *Tx) ItemSettings(id dr.ItemID) (rest.ItemSettings, error) {
	s, err := readDoc[rest.ItemSettings](t, "SELECT doc FROM item_settings WHERE item = ?", id)
	if errors.Is(err, ErrNotFound) {
		return rest.ItemSettings{Item: id}, nil
	}
	return s, err
}

// SettingsAt reads how an item's machine is to be at a site of its group.
func (t *Tx) SettingsAt(g *Group, item dr.ItemID, at dr.SiteID) (site.TargetSettings, error) {
	s, err := t.ItemSettings(item)
	if err != nil {
		return site.TargetSettings{}, err
	}
	mine := s.Recovery
	if at == g.Home {
		mine = s.Home
	}
	if mine == nil {
		return site.TargetSettings{}, nil
	}
	return *mine, nil
}

// TargetOf says how a member of a group is to be at the site of its standby: its
// own settings, the mapping of its networks, and what the policy says of networks
// that have none.
func (t *Tx) TargetOf(g *Group, m Member, policy rest.Policy) (site.Target, error) {
	settings, err := t.SettingsAt(g, m.Item, g.StandbySite())
	if err != nil {
		return site.Target{}, err
	}
	networks, err := t.MappedNetworks(g.SourceSite(), g.StandbySite())
	return site.Target{Settings: settings, Networks: networks, Unmapped: policy.UnmappedNetworks}, err
}
