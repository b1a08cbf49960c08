package store

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// preloaded is what transactions that list a lot answer from, instead of reading
// and decoding row by row. It is kept from one to the next and never changed:
// what a newer one does not share is copied.
type preloaded struct {
	// seq is the newest change that it knows.
	seq      int64
	sites    map[dr.SiteID]Site
	policies map[dr.PolicyID]rest.Policy
	machines map[machineKey]Machine
	agents   map[dr.MachineName]Agent
	groups   map[dr.GroupID]Group
	// groupOf has each item's group; allGroups and allMachines are in the order
	// of Groups and Machines.
	groupOf     map[dr.ItemID]dr.GroupID
	allGroups   []Group
	allMachines []Machine
}

type machineKey struct {
	site dr.SiteID
	name dr.MachineName
}

// fewChanges is up to how many changes are looked up one by one; after more,
// all is read again.
const fewChanges = 200

// Preload lets Site, Policy, Machine, Machines, Agent, Group, GroupOfItem and
// Groups answer from memory, as of this transaction. It is for transactions that
// only read; what they get must not be changed, and when a machine was seen last
// (Machine.SeenAt) may be out of date in it.
func (t *Tx) Preload() error {
	oldest, newest, err := t.ChangesKept()
	if err != nil {
		return err
	}
	t.store.mu.Lock()
	have := t.store.preloaded
	t.store.mu.Unlock()
	p, err := t.preload(have, oldest, newest)
	if err != nil {
		return err
	}
	t.store.mu.Lock()
	if now := t.store.preloaded; now == nil || now.seq < p.seq {
		t.store.preloaded = p
	}
	t.store.mu.Unlock()
	t.loaded = p
	return nil
}

// preload brings what is there up to newest, or reads everything.
func (t *Tx) preload(have *preloaded, oldest, newest int64) (*preloaded, error) {
	switch {
	case have != nil && have.seq == newest:
		return have, nil
	case have == nil || have.seq > newest || oldest == 0 || have.seq+1 < oldest:
		return t.preloadAll(newest) // a reader with an older view, or a gap
	}
	changes, err := t.Changes(have.seq, fewChanges+1)
	if err != nil {
		return nil, err
	}
	if len(changes) > fewChanges {
		return t.preloadAll(newest)
	}
	p := *have
	p.seq = newest
	var did parts
	for _, c := range changes {
		if err := t.follow(&p, &did, c); err != nil {
			return nil, err
		}
	}
	p.finish(did)
	return &p, nil
}

// parts are the pieces of a preloaded that are its own, copied from the one
// before.
type parts struct{ sites, policies, machines, agents, groups bool }

func own[K comparable, V any](m *map[K]V, done *bool) {
	if !*done {
		*m, *done = maps.Clone(*m), true
	}
}

// follow brings one row up to date.
func (t *Tx) follow(p *preloaded, did *parts, c Change) (err error) {
	switch c.Kind {
	case rest.ChangeSite:
		own(&p.sites, &did.sites)
		err = refresh(p.sites, dr.SiteID(c.ID), t.Site)
	case rest.ChangePolicy:
		own(&p.policies, &did.policies)
		err = refresh(p.policies, dr.PolicyID(c.ID), t.Policy)
	case "agent":
		own(&p.agents, &did.agents)
		err = refresh(p.agents, dr.MachineName(c.ID), t.Agent)
	case rest.ChangeGroup:
		own(&p.groups, &did.groups)
		err = refresh(p.groups, dr.GroupID(c.ID), t.Group)
	case rest.ChangeMachine:
		own(&p.machines, &did.machines)
		at, name, _ := strings.Cut(c.ID, "/")
		err = refresh(p.machines, machineKey{dr.SiteID(at), dr.MachineName(name)}, func(k machineKey) (Machine, error) { return t.Machine(k.site, k.name) })
	}
	return err
}

// refresh reads one row again; one that is gone goes.
func refresh[K comparable, V any](m map[K]V, k K, read func(K) (V, error)) error {
	v, err := read(k)
	if err == ErrNotFound { //nolint:errorlint // as readDoc returns it
		delete(m, k)
		return nil
	}
	if err == nil {
		m[k] = v
	}
	return err
}

func (t *Tx) preloadAll(seq int64) (*preloaded, error) {
	p := &preloaded{
		seq: seq, sites: map[dr.SiteID]Site{}, policies: map[dr.PolicyID]rest.Policy{}, machines: map[machineKey]Machine{},
		agents: map[dr.MachineName]Agent{}, groups: map[dr.GroupID]Group{},
	}
	err := fill(p.sites, t.Sites, func(v *Site) dr.SiteID { return v.ID })
	if err == nil {
		err = fill(p.policies, t.Policies, func(v *rest.Policy) dr.PolicyID { return v.ID })
	}
	if err == nil {
		err = fill(p.machines, func() ([]Machine, error) { return t.Machines("") }, func(v *Machine) machineKey { return machineKey{v.Site, v.Definition.Name} })
	}
	if err == nil {
		err = fill(p.agents, t.Agents, func(v *Agent) dr.MachineName { return v.Machine })
	}
	if err == nil {
		err = fill(p.groups, t.Groups, func(v *Group) dr.GroupID { return v.ID })
	}
	p.finish(parts{groups: true, machines: true})
	return p, err
}

func fill[K comparable, V any](m map[K]V, read func() ([]V, error), key func(*V) K) error {
	rows, err := read()
	for i := range rows {
		m[key(&rows[i])] = rows[i]
	}
	return err
}

// finish makes what is derived from the parts that are new.
func (p *preloaded) finish(did parts) {
	if did.groups {
		p.allGroups = slices.AppendSeq([]Group{}, maps.Values(p.groups))
		slices.SortFunc(p.allGroups, func(a, b Group) int { return cmp.Compare(a.ID, b.ID) })
		p.groupOf = make(map[dr.ItemID]dr.GroupID, len(p.groups))
		for i := range p.allGroups {
			for _, m := range p.allGroups[i].Members {
				p.groupOf[m.Item] = p.allGroups[i].ID
			}
		}
	}
	if did.machines {
		p.allMachines = slices.AppendSeq([]Machine{}, maps.Values(p.machines))
		slices.SortFunc(p.allMachines, func(a, b Machine) int {
			return cmp.Or(cmp.Compare(a.Definition.Name, b.Definition.Name), cmp.Compare(a.Site, b.Site))
		})
	}
}

// machinesAt returns the machines of a site, of all when it is empty.
func (p *preloaded) machinesAt(id dr.SiteID) []Machine {
	if id == "" {
		return p.allMachines
	}
	return slices.DeleteFunc(slices.Clone(p.allMachines), func(m Machine) bool { return m.Site != id })
}

// found answers from what was preloaded.
func found[K comparable, V any](m map[K]V, k K) (V, error) {
	v, ok := m[k]
	if !ok {
		return v, ErrNotFound
	}
	return v, nil
}
