package health

import (
	"cmp"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// Index finds the conditions that count for a group, an item, a gateway or a
// site, without looking at those of all the others. It is made of a list once
// and then safe for use by several goroutines.
type Index struct {
	list []rest.Condition
	// Places in list, in its order.
	groups map[dr.GroupID][]int
	// spread are those of gateways and sites that count for their groups too.
	spread []int
	infra  []int
	vault  []int
}

// NewIndex makes an index; the list must not be changed afterwards.
func NewIndex(list []rest.Condition) *Index {
	x := &Index{list: list, groups: map[dr.GroupID][]int{}}
	for i := range list {
		c := &list[i]
		if c.Object.Group != "" {
			x.groups[c.Object.Group] = append(x.groups[c.Object.Group], i)
		}
		switch c.Object.Kind {
		case rest.ObjectGateway, rest.ObjectSite:
			x.infra = append(x.infra, i)
			if row, ok := RowOf(Code(c.Code)); ok && row.Spreads {
				x.spread = append(x.spread, i)
			}
		case rest.ObjectVault, rest.ObjectWebhook:
			x.vault = append(x.vault, i)
		default:
		}
	}
	return x
}

// All returns the whole list. It must not be changed.
func (x *Index) All() []rest.Condition { return x.list }

// OfGroup chooses the conditions that count for a group: its own, its items' and
// disks', and what spreads from its gateways and sites.
func (x *Index) OfGroup(w Where) []rest.Condition {
	own := x.groups[w.Group]
	at := make([]int, 0, len(own)+len(x.spread))
	at = append(at, own...)
	for _, i := range x.spread {
		c := &x.list[i]
		if c.Object.Group != w.Group && isAt(c, w) {
			at = append(at, i)
		}
	}
	slices.SortFunc(at, cmp.Compare)
	out := make([]rest.Condition, len(at))
	for to, i := range at {
		out[to] = x.list[i]
	}
	return out
}

// OfItem chooses those that count for one item of a group.
func (x *Index) OfItem(w Where, item dr.ItemID) []rest.Condition {
	return WithoutOthers(x.OfGroup(w), item)
}

// OfGateway chooses those about a gateway.
func (x *Index) OfGateway(id dr.GatewayID) []rest.Condition {
	return x.choose(x.infra, func(c *rest.Condition) bool { return c.Object.Kind == rest.ObjectGateway && c.Object.Gateway == id })
}

// OfSite chooses those about a site and its gateways.
func (x *Index) OfSite(id dr.SiteID) []rest.Condition {
	return x.choose(x.infra, func(c *rest.Condition) bool { return c.Object.Site == id })
}

// OfVault chooses those about the vault itself.
func (x *Index) OfVault() []rest.Condition {
	return x.choose(x.vault, func(*rest.Condition) bool { return true })
}

func (x *Index) choose(at []int, pass func(*rest.Condition) bool) []rest.Condition {
	out := []rest.Condition{}
	for _, i := range at {
		if pass(&x.list[i]) {
			out = append(out, x.list[i])
		}
	}
	return out
}

// WithoutOthers drops what is about other items of the group than this one.
func WithoutOthers(list []rest.Condition, item dr.ItemID) []rest.Condition {
	others := func(c rest.Condition) bool { return c.Object.Item != "" && c.Object.Item != item }
	if !slices.ContainsFunc(list, others) {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), others)
}

// isAt reports whether a gateway or site that a condition is about is one that a
// group depends on.
func isAt(c *rest.Condition, w Where) bool {
	if c.Object.Kind == rest.ObjectGateway {
		return slices.Contains(w.Gateways, c.Object.Gateway)
	}
	return slices.Contains(w.Sites, c.Object.Site)
}
