package gateway

import (
	"context"
	"path/filepath"
	"time"

	"rebound/internal/control"
	"rebound/internal/gateway/runbook"
)

// openActions makes what runs the actions of recovery plans.
func (g *Gateway) openActions() error {
	scripts, err := runbook.ParseScripts(string(g.cfg.Scripts))
	if err != nil {
		return err
	}
	g.actions, err = runbook.Open(runbook.Config{
		Dir: filepath.Join(g.cfg.Dir, "actions"), Folder: filepath.Join(g.cfg.Dir, "scripts"), Scripts: scripts, Now: time.Now,
	})
	return err
}

// RunScript runs a script of a recovery plan.
func (g *Gateway) RunScript(ctx context.Context, o control.Origin, r control.ScriptRequest) (control.ScriptResult, error) {
	return g.actions.RunScript(ctx, runbook.Key(o), r)
}

// CallHTTP sends an HTTP request of a recovery plan.
func (g *Gateway) CallHTTP(ctx context.Context, o control.Origin, r control.CallRequest) (control.CallResult, error) {
	return g.actions.Call(ctx, runbook.Key(o), r)
}
