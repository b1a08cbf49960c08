package store

import "rebound/internal/vault/rest"

// PolicyOf reads a group's policy as it is for the direction in which the group
// replicates.
func (t *Tx) PolicyOf(g *Group) (rest.Policy, error) {
	p, err := t.Policy(g.Policy)
	return p.For(g.Direction), err
}
