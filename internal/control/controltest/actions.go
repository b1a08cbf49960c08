package controltest

import (
	"context"
	"time"

	"rebound/internal/control"
)

// OnScript says how scripts end; without it they end with code 0 and print
// nothing. It runs under the world's lock.
func (w *World) OnScript(f func(control.ScriptRequest) control.ScriptResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.script = f
}

// RunScript implements control.Commands. It runs nothing: the effect names the
// action.
func (g *Gateway) RunScript(ctx context.Context, o control.Origin, r control.ScriptRequest) (control.ScriptResult, error) {
	res := control.ScriptResult{Started: time.Now().UTC()}
	err := g.do(ctx, "RunScript", r.Env["REBOUND_ACTION"], o, func() error {
		if g.world.script != nil {
			res = g.world.script(r)
		}
		return nil
	})
	res.Ended = time.Now().UTC()
	return res, err
}

// CallHTTP implements control.Commands: every call is answered with 200.
func (g *Gateway) CallHTTP(ctx context.Context, o control.Origin, r control.CallRequest) (control.CallResult, error) {
	now := time.Now().UTC()
	err := g.do(ctx, "CallHTTP", r.URL, o, func() error { return nil })
	return control.CallResult{Status: 200, Expected: true, Attempts: 1, Started: now, Ended: now}, err
}
