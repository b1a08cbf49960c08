package lifecycle

import (
	"fmt"
	"slices"

	"rebound/internal/problem"
)

// OperationStatus is one line of allowedOperations.
type OperationStatus struct {
	Name    Operation `json:"name"`
	Allowed bool      `json:"allowed"`
	// Reason and Remedy are set when it is not allowed.
	Reason string       `json:"reason,omitempty"`
	Remedy string       `json:"remedy,omitempty"`
	Code   problem.Code `json:"code,omitempty"`
}

// Decide reports whether op may begin, and if not, why.
func Decide(op Operation, f Facts) *Refusal { return decide(op, f, Guards()) }

// decide takes the guards as a parameter so that a test can remove each in turn.
func decide(op Operation, f Facts, guards map[GuardName]Guard) *Refusal {
	row, ok := RowOf(op)
	if !ok {
		return &Refusal{problem.InvalidRequest, fmt.Sprintf("There is no operation %q.", op), "See 'rebound --help'."}
	}
	return decideRow(&row, f, guards)
}

func decideRow(row *Row, f Facts, guards map[GuardName]Guard) *Refusal {
	if f.Unconfirmed != "" {
		return &Refusal{problem.StateUnconfirmed, "It is not certain how the item stands: " + f.Unconfirmed + ".", "Let both of its gateways connect; if one is lost, run 'rebound vault adopt --partial'."}
	}
	if !slices.Contains(row.From, f.State) {
		return wrongState(row, f)
	}
	for _, name := range row.Guards {
		guard, ok := guards[name]
		if !ok {
			continue
		}
		if r := guard(row.Operation, f); r != nil {
			return r
		}
	}
	return nil
}

func wrongState(row *Row, f Facts) *Refusal {
	// While a job moves the item, that job is the better answer.
	if r := guardNoOtherJob(row.Operation, f); r != nil {
		return r
	}
	remedy, ok := row.Ask[f.State]
	if !ok {
		remedy = row.Otherwise
	}
	return &Refusal{problem.OperationNotAllowed, fmt.Sprintf("The item is %s.", f.State), remedy}
}

// Rulebook decides with a table of guards; Rules has the real one.
type Rulebook struct{ guards map[GuardName]Guard }

// NewRulebook returns a rulebook of other guards than Guards, as tests do that
// leave one out; nil means Guards.
func NewRulebook(guards map[GuardName]Guard) Rulebook {
	if guards == nil {
		guards = Guards()
	}
	return Rulebook{guards}
}

// Check is Decide as an error for the API: a problem with the refusal's code.
func (b Rulebook) Check(op Operation, f Facts) error { return refused(op, decide(op, f, b.guards)) }

// Recheck runs op's guards again while its own job is at work: what the
// gateways found meanwhile may refuse what could not be known at the start.
func (b Rulebook) Recheck(op Operation, f Facts) error {
	row, ok := RowOf(op)
	if !ok {
		return nil
	}
	f.RunningJob = ""
	f.State = row.From[0]
	return refused(op, decide(op, f, b.guards))
}

// Check is Rulebook.Check with the real guards.
func Check(op Operation, f Facts) error { return refused(op, Decide(op, f)) }

func refused(op Operation, r *Refusal) error {
	if r == nil {
		return nil
	}
	p := problem.New(r.Code, "%s: %s", op, r.Reason)
	p.RecommendedAction = r.Remedy
	return p
}

// Allowed returns a line for every operation but Protect, which is asked of
// machines and not of items.
func Allowed(f Facts) []OperationStatus { return NewRulebook(nil).Allowed(f) }

// Allowed is the function of that name, with the rulebook's guards.
func (b Rulebook) Allowed(f Facts) []OperationStatus {
	all := rows()
	out := make([]OperationStatus, 0, len(all))
	for i := range all {
		row := &all[i]
		if row.Operation == Protect {
			continue
		}
		s := OperationStatus{Name: row.Operation, Allowed: true}
		if r := decideRow(row, f, b.guards); r != nil {
			s.Allowed, s.Reason, s.Remedy, s.Code = false, r.Reason, r.Remedy, r.Code
		}
		out = append(out, s)
	}
	return out
}

// Begin returns the state while op's job runs.
func Begin(op Operation, from State) State {
	if row, ok := RowOf(op); ok && row.During != "" {
		return row.During
	}
	return from
}

// Succeeded returns the state after op's job that began in from.
func Succeeded(op Operation, from State) State {
	if row, ok := RowOf(op); ok && row.Then != "" {
		return row.Then
	}
	return from
}

// Failed returns the state after op's job that began in from failed;
// beyond says that it had passed its point of no return (the generation was
// raised, or something was deleted or stopped that the state must not hide).
func Failed(op Operation, from State, beyond bool) State {
	row, ok := RowOf(op)
	if !ok {
		return from
	}
	to := row.FailedBefore
	if beyond && row.FailedAfter != "" {
		to = row.FailedAfter
	}
	if to == "" {
		return from
	}
	return to
}

// Observe returns the state of an item after its gateways reported on
// replication. Only states that replicate move by observation.
//
//   - synced: the synchronisation that the state waits for has ended.
//   - points: how many points there are of the present direction.
//   - broken: the stream is broken (tracking); syncing: it is being repaired.
func Observe(s State, synced bool, points int, broken, syncing bool) State {
	switch s {
	case InitialSync:
		if synced && points > 0 {
			return Protected
		}
		if synced {
			return WaitingForFirstPoint
		}
	case WaitingForFirstPoint:
		if points > 0 && !broken && !syncing {
			return Protected
		}
	case Protected, Tracking, Resynchronising:
		switch {
		case broken:
			return Tracking
		case syncing || !synced:
			return Resynchronising
		case s != Protected && points == 0: // the first copy was interrupted
			return WaitingForFirstPoint
		default:
			return Protected
		}
	}
	return s
}
