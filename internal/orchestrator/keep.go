package orchestrator

import (
	"encoding/json"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// Kept is what a group's gateways keep for the vault: all of its row that is
// somebody's decision, and its policy. What changes by itself is not in it.
type Kept struct {
	Group  store.Group `json:"group"`
	Policy rest.Policy `json:"policy"`
}

// KeepOf makes what the gateways keep of a group.
func KeepOf(g store.Group, p rest.Policy) (control.Keep, error) {
	settled(&g)
	b, err := json.Marshal(Kept{g, p})
	if err != nil {
		return nil, fmt.Errorf("encode what is kept of group %s: %w", g.ID, err)
	}
	return b, nil
}

// settled clears what the present moment says of a group.
func settled(g *store.Group) {
	g.State, g.Test, g.Active, g.Direction, g.Generation = "", "", "", "", 0
	g.Running, g.From, g.LastJob, g.Beyond, g.Recovered, g.TestAt = "", "", "", false, nil, nil
	g.Unconfirmed, g.ChangedAt = "", time.Time{}
	members := make([]store.Member, len(g.Members))
	for i, m := range g.Members {
		m.Started, m.StartedAt, m.BootBefore, m.Booted = false, time.Time{}, "", false
		members[i] = m
	}
	g.Members = members
}

// ReadKept reads what KeepOf made, by this program or another one.
func ReadKept(k control.Keep) (Kept, error) {
	var out Kept
	if err := json.Unmarshal(k, &out); err != nil {
		return out, fmt.Errorf("read what a gateway keeps: %w", err)
	}
	return out, nil
}

// keep is what the gateways of the job's group keep; nil when it cannot be
// made, which costs nothing but the rebuilding of a lost vault.
func (r *run) keep() control.Keep {
	k, err := KeepOf(r.group, r.policy)
	if err != nil {
		r.o.log.Error("keep at the gateways", "group", r.group.ID, "error", err)
		return nil
	}
	return k
}
