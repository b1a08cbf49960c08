package store

import (
	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// preloaded is what a transaction that lists a lot has read at once, instead of
// row by row.
type preloaded struct {
	policies map[dr.PolicyID]rest.Policy
	machines map[machineKey]Machine
	agents   map[dr.MachineName]Agent
	groups   map[dr.ItemID]Group
}

type machineKey struct {
	site dr.SiteID
	name dr.MachineName
}

// Preload reads all policies, machines, agents and groups, for Policy, Machine,
// Agent and GroupOfItem to answer from. It is for transactions that only read;
// what they get must not be changed.
func (t *Tx) Preload() error {
	p := &preloaded{
		policies: map[dr.PolicyID]rest.Policy{}, machines: map[machineKey]Machine{},
		agents: map[dr.MachineName]Agent{}, groups: map[dr.ItemID]Group{},
	}
	policies, err := t.Policies()
	if err != nil {
		return err
	}
	for _, v := range policies {
		p.policies[v.ID] = v
	}
	machines, err := t.Machines("")
	if err != nil {
		return err
	}
	for _, v := range machines {
		p.machines[machineKey{v.Site, v.Definition.Name}] = v
	}
	agents, err := t.Agents()
	if err != nil {
		return err
	}
	for _, v := range agents {
		p.agents[v.Machine] = v
	}
	groups, err := t.Groups()
	if err != nil {
		return err
	}
	for _, g := range groups {
		for _, m := range g.Members {
			p.groups[m.Item] = g
		}
	}
	t.loaded = p
	return nil
}

// found answers from what was preloaded.
func found[K comparable, V any](m map[K]V, k K) (V, error) {
	v, ok := m[k]
	if !ok {
		return v, ErrNotFound
	}
	return v, nil
}
