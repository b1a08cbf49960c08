package store

import (
	"errors"

	"rebound/internal/dr"
)

// NoteGeneration keeps a generation that gateways remember of a group's name,
// so that a group of that name never falls behind it.
func (t *Tx) NoteGeneration(id dr.GroupID, gen dr.Generation) error {
	return t.keepGeneration(&Group{ID: id, Generation: gen})
}

// AdoptGroup adds a group whose generation gateways know, or replaces the row
// of one that there is. Its generation is at least the one given.
func (t *Tx) AdoptGroup(g *Group) error {
	have, err := t.Group(g.ID)
	if err == nil {
		g.Generation = max(g.Generation, have.Generation)
		return t.PutGroup(g)
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := t.NoteGeneration(g.ID, g.Generation-1); err != nil {
		return err
	}
	return t.InsertGroup(g)
}
