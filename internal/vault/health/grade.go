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

// IsNamed reports whether an object, or what it belongs to, has a name.
func IsNamed(o *rest.Object, name string) bool {
	return slices.Contains([]string{o.ID, string(o.Kind) + "/" + o.ID, string(o.Site), string(o.Gateway), string(o.Group), string(o.Item), string(o.Machine), string(o.Job)}, name)
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
