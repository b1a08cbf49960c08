package store

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// everything is what a transaction answers that Preload makes answer from memory.
type everything struct {
	Groups   []Group
	Machines []Machine
	AtHome   []Machine
	GroupOf  map[dr.ItemID]dr.GroupID
	Policy   map[dr.PolicyID]rest.Policy
	Agent    map[dr.MachineName]Agent
	Site     map[dr.SiteID]Site
	Machine  map[machineKey]Machine
}

func readAll(t *testing.T, s *Store, preload bool) everything {
	t.Helper()
	e := everything{
		GroupOf: map[dr.ItemID]dr.GroupID{}, Policy: map[dr.PolicyID]rest.Policy{}, Agent: map[dr.MachineName]Agent{},
		Site: map[dr.SiteID]Site{}, Machine: map[machineKey]Machine{},
	}
	err := s.View(t.Context(), func(tx *Tx) error {
		if preload {
			if err := tx.Preload(); err != nil {
				return err
			}
		}
		var err error
		if e.Groups, err = tx.Groups(); err != nil {
			return err
		}
		if e.Machines, err = tx.Machines(""); err != nil {
			return err
		}
		if e.AtHome, err = tx.Machines("home"); err != nil {
			return err
		}
		for i := range 8 {
			name := fmt.Sprint("x", i)
			if g, err := tx.GroupOfItem(dr.ItemID(name)); err == nil {
				e.GroupOf[dr.ItemID(name)] = g.ID
			}
			if v, err := tx.Policy(dr.PolicyID(name)); err == nil {
				e.Policy[v.ID] = v
			}
			if v, err := tx.Agent(dr.MachineName(name)); err == nil {
				e.Agent[v.Machine] = v
			}
			if v, err := tx.Site(dr.SiteID(name)); err == nil {
				e.Site[v.ID] = v
			}
			k := machineKey{"home", dr.MachineName(name)}
			if v, err := tx.Machine(k.site, k.name); err == nil {
				e.Machine[k] = v
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestPreloadIsWhatIsThere changes rows at random, in transactions of a few and of
// many changes, and compares what transactions say with and without Preload.
func TestPreloadIsWhatIsThere(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "vault.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	err = s.Update(t.Context(), func(tx *Tx) error {
		if err := tx.InsertSite(Site{ID: "home"}); err != nil {
			return err
		}
		return tx.InsertPolicy(rest.Policy{ID: "p"})
	})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 60 {
		n := 1 + r.IntN(5)
		if round%20 == 19 {
			n = 2 * fewChanges
		}
		err := s.Update(t.Context(), func(tx *Tx) error {
			for range n {
				if err := changeAtRandom(tx, r); err != nil {
					return err
				}
			}
			if round%17 == 16 { // what was changed long ago is not known any more
				_, err := tx.exec("DELETE FROM changes WHERE seq < (SELECT max(seq) FROM changes)")
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := readAll(t, s, true), readAll(t, s, false); !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: preloaded\n%+v\nwant\n%+v", round, got, want)
		}
	}
}

func changeAtRandom(tx *Tx, r *rand.Rand) error {
	name := fmt.Sprint("x", r.IntN(8))
	switch r.IntN(9) {
	case 0:
		return tx.PutPolicy(rest.Policy{ID: dr.PolicyID(name), CrashInterval: r.Int64N(100)})
	case 1:
		_, err := tx.exec("DELETE FROM policies WHERE id = ?", name)
		return err
	case 2:
		return tx.PutMachine(Machine{Site: "home", Machine: site.Machine{Definition: dr.Definition{Name: dr.MachineName(name), CPUs: r.IntN(9)}}})
	case 3:
		return tx.DeleteMachine("home", dr.MachineName(name))
	case 4:
		return tx.PutAgent(Agent{Machine: dr.MachineName(name), Agent: rest.Agent{BootID: fmt.Sprint(r.IntN(100))}})
	case 5:
		if err := tx.InsertSite(Site{ID: dr.SiteID(name)}); err != ErrExists { //nolint:errorlint // as it is returned
			return err
		}
		return tx.DeleteSite(dr.SiteID(name))
	case 6:
		return tx.DeleteGroup(dr.GroupID(name))
	default:
		g := Group{ID: dr.GroupID(name), Policy: "p", Home: "home", Recovery: "home", Members: []Member{{Item: dr.ItemID(name), Machine: dr.MachineName(name)}}}
		err := tx.InsertGroup(&g)
		if err != ErrExists { //nolint:errorlint // as it is returned
			return err
		}
		return tx.ChangeGroup(g.ID, func(g *Group) error {
			g.State = lifecycle.State(fmt.Sprint(r.IntN(5)))
			return nil
		})
	}
}
