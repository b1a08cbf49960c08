package health

import (
	"cmp"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// Grade is the worst of what is open and not muted.
func Grade(list []rest.Condition) string {
	worst := rest.HealthOK
	for _, c := range list {
		switch {
		case c.Muted != nil || !c.Cleared.IsZero():
		case c.Severity == rest.SeverityCritical:
			return rest.HealthCritical
		case c.Severity == rest.SeverityWarning:
			worst = rest.HealthWarning
		}
	}
	return worst
}

// Where says what a group depends on.
type Where struct {
	Group    dr.GroupID
	Gateways []dr.GatewayID
	Sites    []dr.SiteID
}

// OfGroup chooses the conditions that count for a group: its own, its items' and
// disks', and what spreads from its gateways and sites.
func OfGroup(list []rest.Condition, w Where) []rest.Condition {
	return choose(list, func(c *rest.Condition) bool {
		return c.Object.Group == w.Group || spreads(c, w)
	})
}

// OfItem chooses those that count for one item of a group.
func OfItem(list []rest.Condition, w Where, item dr.ItemID) []rest.Condition {
	return WithoutOthers(OfGroup(list, w), item)
}

// WithoutOthers drops what is about other items of the group than this one.
func WithoutOthers(list []rest.Condition, item dr.ItemID) []rest.Condition {
	return choose(list, func(c *rest.Condition) bool { return c.Object.Item == "" || c.Object.Item == item })
}

func spreads(c *rest.Condition, w Where) bool {
	row, ok := RowOf(Code(c.Code))
	if !ok || !row.Spreads {
		return false
	}
	switch c.Object.Kind {
	case rest.ObjectGateway:
		return slices.Contains(w.Gateways, c.Object.Gateway)
	case rest.ObjectSite:
		return slices.Contains(w.Sites, c.Object.Site)
	default:
		return false
	}
}

// OfGateway chooses those about a gateway.
func OfGateway(list []rest.Condition, id dr.GatewayID) []rest.Condition {
	return choose(list, func(c *rest.Condition) bool { return c.Object.Kind == rest.ObjectGateway && c.Object.Gateway == id })
}

// OfSite chooses those about a site and its gateways.
func OfSite(list []rest.Condition, id dr.SiteID) []rest.Condition {
	return choose(list, func(c *rest.Condition) bool {
		return c.Object.Site == id && (c.Object.Kind == rest.ObjectSite || c.Object.Kind == rest.ObjectGateway)
	})
}

// OfVault chooses those about the vault itself.
func OfVault(list []rest.Condition) []rest.Condition {
	return choose(list, func(c *rest.Condition) bool {
		return c.Object.Kind == rest.ObjectVault || c.Object.Kind == rest.ObjectWebhook
	})
}

// Named chooses those whose object, or what it belongs to, has a name.
func Named(list []rest.Condition, name string) []rest.Condition {
	return choose(list, func(c *rest.Condition) bool { return IsNamed(&c.Object, name) })
}

// IsNamed reports whether an object, or what it belongs to, has a name.
func IsNamed(o *rest.Object, name string) bool {
	return slices.Contains([]string{o.ID, string(o.Kind) + "/" + o.ID, string(o.Site), string(o.Gateway), string(o.Group), string(o.Item), string(o.Machine), string(o.Job)}, name)
}

func choose(list []rest.Condition, f func(*rest.Condition) bool) []rest.Condition {
	out := []rest.Condition{}
	for i := range list {
		if f(&list[i]) {
			out = append(out, list[i])
		}
	}
	return out
}

// infrastructure first, then what it carries.
func rank(k rest.ObjectKind) int {
	return slices.Index([]rest.ObjectKind{
		rest.ObjectVault, rest.ObjectSite, rest.ObjectGateway, rest.ObjectGroup, rest.ObjectItem, rest.ObjectDisk, rest.ObjectJob, rest.ObjectWebhook,
	}, k)
}

func weight(s rest.Severity) int {
	return slices.Index([]rest.Severity{rest.SeverityCritical, rest.SeverityWarning, rest.SeverityInfo}, s)
}

// Sort orders conditions: infrastructure first (Azure's error summary does so too),
// within that the worst first, then the oldest.
func Sort(list []rest.Condition) {
	slices.SortStableFunc(list, func(a, b rest.Condition) int {
		infra := func(c rest.Condition) int {
			if rank(c.Object.Kind) <= rank(rest.ObjectGateway) {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(infra(a), infra(b)), cmp.Compare(weight(a.Severity), weight(b.Severity)),
			a.Since.Compare(b.Since), compareKeys(KeyOf(&a), KeyOf(&b)))
	})
}

// Worst returns the text of the worst condition that counts, "" when there is none.
func Worst(list []rest.Condition) string {
	text, best := "", len(list)+3
	for _, c := range list {
		if c.Muted != nil || c.Severity == rest.SeverityInfo {
			continue
		}
		if w := weight(c.Severity); w < best {
			best, text = w, c.Text
		}
	}
	return text
}
