package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
)

// entry is one command as it crosses the wire: how to decode its arguments and
// run it. A test reflects over Commands and demands an entry for each method.
type entry struct {
	name string
	// changes marks commands with an Origin: run once, kept in the ledger.
	changes bool
	run     func(ctx context.Context, c Commands, o Origin, args json.RawMessage) (any, error)
}

// commandTable returns every command of the interface, by name.
func commandTable() map[string]entry {
	list := []entry{
		{"Inventory", false, func(ctx context.Context, c Commands, _ Origin, _ json.RawMessage) (any, error) {
			return c.Inventory(ctx)
		}},
		{"Probe", false, func(ctx context.Context, c Commands, _ Origin, args json.RawMessage) (any, error) {
			var addr string
			if err := decodeArgs(args, &addr); err != nil {
				return nil, err
			}
			return nil, c.Probe(ctx, addr)
		}},
		query("MachineEvidence", Commands.MachineEvidence),
		query("Console", Commands.Console),
		{"Holdings", false, func(ctx context.Context, c Commands, _ Origin, _ json.RawMessage) (any, error) {
			return c.Holdings(ctx)
		}},
		query("SetRevoked", func(c Commands, ctx context.Context, list []identity.Revocation) (*struct{}, error) {
			return nil, c.SetRevoked(ctx, list)
		}),
		query("Prerequisites", Commands.Prerequisites),
		query("ProbePath", Commands.ProbePath),
		{"Support", false, func(ctx context.Context, c Commands, _ Origin, _ json.RawMessage) (any, error) {
			return c.Support(ctx)
		}},
		query("Points", Commands.Points),
		query("ResolvePoint", Commands.ResolvePoint),
		command("ImportMachine", Commands.ImportMachine),
		command("RunScript", Commands.RunScript),
		command("CallHTTP", Commands.CallHTTP),
		commandOnly("StartMachine", Commands.StartMachine),
		commandOnly("StopMachine", Commands.StopMachine),
		command("DeleteMachine", Commands.DeleteMachine),
		command("ValidateSite", Commands.ValidateSite),
		commandOnly("StartReplication", Commands.StartReplication),
		command("StopReplication", Commands.StopReplication),
		commandOnly("Fence", Commands.Fence),
		command("CreatePoint", Commands.CreatePoint),
		commandOnly("Resync", Commands.Resync),
		command("CreateJournal", Commands.CreateJournal),
		commandOnly("DeleteJournal", Commands.DeleteJournal),
		command("Seal", Commands.Seal),
		command("StartRecovered", Commands.StartRecovered),
		commandOnly("DiscardRecovered", Commands.DiscardRecovered),
		command("CommitRecovered", Commands.CommitRecovered),
		command("Verify", func(c Commands, ctx context.Context, o Origin, g dr.GroupID) (VerifyResult, error) {
			return c.Verify(ctx, o, g)
		}),
	}
	table := make(map[string]entry, len(list))
	for _, e := range list {
		table[e.name] = e
	}
	return table
}

func query[A, R any](name string, f func(Commands, context.Context, A) (R, error)) entry {
	return entry{name, false, func(ctx context.Context, c Commands, _ Origin, raw json.RawMessage) (any, error) {
		var args A
		if err := decodeArgs(raw, &args); err != nil {
			return nil, err
		}
		return f(c, ctx, args)
	}}
}

func command[A, R any](name string, f func(Commands, context.Context, Origin, A) (R, error)) entry {
	return entry{name, true, func(ctx context.Context, c Commands, o Origin, raw json.RawMessage) (any, error) {
		var args A
		if err := decodeArgs(raw, &args); err != nil {
			return nil, err
		}
		return f(c, ctx, o, args)
	}}
}

func commandOnly[A any](name string, f func(Commands, context.Context, Origin, A) error) entry {
	return command(name, func(c Commands, ctx context.Context, o Origin, args A) (struct{}, error) {
		return struct{}{}, f(c, ctx, o, args)
	})
}

// decodeArgs is strict: a field that this version does not know may be what
// makes the command safe, so it is refused instead of dropped.
func decodeArgs(raw json.RawMessage, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return problem.Wrap(err, problem.ProtocolError, "cannot read the arguments of a command: %v", err)
	}
	return nil
}

func encode(v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}
