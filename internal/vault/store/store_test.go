package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func do(t *testing.T, s *Store, f func(*Tx) error) {
	t.Helper()
	if err := s.Update(context.WithoutCancel(t.Context()), f); err != nil {
		t.Fatal(err)
	}
}

func prepared(t *testing.T) *Store {
	s := open(t, filepath.Join(t.TempDir(), "with space?.db"))
	do(t, s, func(tx *Tx) error {
		return errors.Join(tx.InsertSite(Site{ID: "home"}), tx.InsertSite(Site{ID: "cloud"}), tx.InsertPolicy(rest.Policy{ID: "p"}))
	})
	return s
}

func group(id dr.GroupID) *Group {
	return &Group{ID: id, Policy: "p", Home: "home", Recovery: "cloud", Direction: dr.Forward, Members: []Member{{Item: dr.ItemID(id), Machine: dr.MachineName(id)}}}
}

func TestGenerationNeverGoesBack(t *testing.T) {
	s := prepared(t)
	g := group("g")
	do(t, s, func(tx *Tx) error { return tx.InsertGroup(g) })
	if g.Generation != 1 {
		t.Fatalf("first generation %d", g.Generation)
	}
	do(t, s, func(tx *Tx) error {
		return tx.ChangeGroup("g", func(g *Group) error { g.Generation = 7; return nil })
	})
	err := s.Update(t.Context(), func(tx *Tx) error {
		return tx.ChangeGroup("g", func(g *Group) error { g.Generation = 6; return nil })
	})
	if err == nil {
		t.Error("a generation went back")
	}
	do(t, s, func(tx *Tx) error { return tx.DeleteGroup("g") })
	again := group("g")
	do(t, s, func(tx *Tx) error { return tx.InsertGroup(again) })
	if again.Generation != 8 {
		t.Errorf("a group of the same name begins at generation %d, want 8", again.Generation)
	}
}

func TestFailedTransactionLeavesNothing(t *testing.T) {
	s := prepared(t)
	do(t, s, func(tx *Tx) error { return tx.InsertGroup(group("a")) })
	taken := &Group{ID: "b", Policy: "p", Home: "home", Recovery: "cloud", Members: []Member{{Item: "new", Machine: "new"}, {Item: "a", Machine: "a"}}}
	err := s.Update(t.Context(), func(tx *Tx) error { return tx.InsertGroup(taken) })
	if !errors.Is(err, ErrExists) {
		t.Fatalf("insert of a taken item: %v", err)
	}
	do(t, s, func(tx *Tx) error {
		if _, err := tx.Group("b"); !errors.Is(err, ErrNotFound) {
			t.Errorf("group b after a failed insert: %v", err)
		}
		if _, err := tx.GroupOfItem("new"); !errors.Is(err, ErrNotFound) {
			t.Errorf("item new after a failed insert: %v", err)
		}
		return nil
	})
}

func TestPassphraseWorksOnceAndInTime(t *testing.T) {
	s := prepared(t)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	take := func(pass, csr string, at time.Time) (ok bool) {
		do(t, s, func(tx *Tx) (err error) { ok, err = tx.TakeEnrollment("gateway", "g", pass, csr, at); return err })
		return ok
	}
	do(t, s, func(tx *Tx) error { return tx.PutEnrollment("gateway", "g", "right", now.Add(time.Hour)) })
	for _, c := range []struct {
		pass, csr string
		at        time.Time
		ok        bool
	}{
		{"wrong", "a", now, false},
		{"right", "a", now.Add(2 * time.Hour), false},
		{"right", "a", now, true},
		{"right", "b", now, false},
		{"right", "a", now, true}, // the answer did not reach its holder
		{"right", "a", now.Add(2 * time.Hour), false},
	} {
		if got := take(c.pass, c.csr, c.at); got != c.ok {
			t.Errorf("take(%s, %s, %v) = %v", c.pass, c.csr, c.at, got)
		}
	}
}

func TestReopenKeepsRowsAndRefusesNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.db")
	s := open(t, path)
	do(t, s, func(tx *Tx) error { return tx.InsertEvent(rest.Event{Code: "X", Time: time.Unix(1, 0)}) })
	s.Close()
	s = open(t, path)
	do(t, s, func(tx *Tx) error {
		ev, err := tx.Events(EventFilter{Limit: 10})
		if len(ev) != 1 || ev[0].Code != "X" || ev[0].Seq != 1 {
			t.Errorf("events %+v", ev)
		}
		_, err2 := tx.exec("PRAGMA user_version = 99")
		return errors.Join(err, err2)
	})
	s.Close()
	if _, err := Open(t.Context(), path); err == nil {
		t.Error("a newer schema was opened")
	}
}
