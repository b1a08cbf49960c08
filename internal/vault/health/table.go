package health

import (
	"slices"
	"sync"
	"time"

	"rebound/internal/vault/rest"
)

// The severities that most rows have.
func warning() []rest.Severity  { return []rest.Severity{rest.SeverityWarning} }
func critical() []rest.Severity { return []rest.Severity{rest.SeverityCritical} }
func both() []rest.Severity {
	return []rest.Severity{rest.SeverityWarning, rest.SeverityCritical}
}

// Table returns every condition that there is. It must not be changed.
func Table() []Row { return table() }

var table = sync.OnceValue(func() []Row {
	return slices.Concat(vaultRows(), gatewayRows(), volumeRows(), pointRows(), streamRows(), siteRows(), lifeRows(), memberRows(), agentRows())
})

var byCode = sync.OnceValue(func() map[Code]Row {
	m := map[Code]Row{}
	for _, r := range Table() {
		m[r.Code] = r
	}
	return m
})

// RowOf returns the row of a code. It must not be changed.
func RowOf(code Code) (Row, bool) {
	row, ok := byCode()[code]
	return row, ok
}

const day = 24 * time.Hour

// object makes a group's object; the row decides its kind.
func (g *Group) object() rest.Object { return rest.Object{ID: string(g.ID), Group: g.ID} }

func (g *Group) member(m *Member) rest.Object {
	return rest.Object{ID: string(m.Item), Group: g.ID, Item: m.Item, Machine: m.Machine}
}

// eachGroup runs f for the groups.
func eachGroup(f func(*eval, *Group)) func(*eval) {
	return func(e *eval) {
		for i := range e.Groups {
			f(e, &e.Groups[i])
		}
	}
}

// eachMember runs f for the members of the groups.
func eachMember(f func(*eval, *Group, *Member)) func(*eval) {
	return eachGroup(func(e *eval, g *Group) {
		for i := range g.Members {
			f(e, g, &g.Members[i])
		}
	})
}

func eachGateway(f func(*eval, *Gateway, rest.Object)) func(*eval) {
	return func(e *eval) {
		for i := range e.Gateways {
			g := &e.Gateways[i]
			f(e, g, rest.Object{ID: string(g.ID), Gateway: g.ID, Site: g.Site})
		}
	}
}
