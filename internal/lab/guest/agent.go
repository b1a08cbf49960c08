package guest

import (
	"context"
	"log/slog"
	"path/filepath"

	"rebound/internal/agent"
	"rebound/internal/lab/wire"
)

// agentTold takes in an agent configuration from the collector; the first one
// counts.
func (g *guest) agentTold(c wire.AgentConfig) {
	select {
	case g.agentCfg <- c:
	default:
	}
}

// runAgent runs the mobility agent once it has a configuration: that of the
// first disk, or the collector's.
func (g *guest) runAgent(ctx context.Context) {
	var c wire.AgentConfig
	if g.conf.Agent != nil {
		c = *g.conf.Agent
	} else {
		select {
		case c = <-g.agentCfg:
		case <-ctx.Done():
			return
		}
	}
	err := agent.Run(ctx, agent.Config{
		Vault: c.Vault, Machine: c.Machine, Passphrase: c.Passphrase, CA: []byte(c.CA),
		StateDir: filepath.Join(g.dirs[0], wire.AgentDir),
		BootID:   g.boot,
		Logger:   slog.New(slog.NewTextHandler(g.con, nil)),
	})
	if err != nil && ctx.Err() == nil {
		g.con.event(wire.Event{Event: "error", Detail: "agent: " + err.Error()})
	}
}
