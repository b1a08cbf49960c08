package guest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rebound/internal/lab/wire"
)

// agentPortName is how QEMU names the guest agent's port.
const agentPortName = "org.qemu.guest_agent.0"

// agentRestart is the pause before an agent that ended is started again.
const agentRestart = time.Second

// runGuestAgent runs the QEMU guest agent while the machine has a port for it.
func (g *guest) runGuestAgent(ctx context.Context) {
	if err := loadList("/modules/agent"); err != nil {
		g.con.event(wire.Event{Event: "error", Detail: "guest agent: " + err.Error()})
		return
	}
	port := agentPort()
	if port == "" {
		return // an imported machine may have none
	}
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, wire.AgentProgram, "--method=virtio-serial", "--path="+port,
			"--statedir=/run", "--fsfreeze-hook="+wire.AgentHook)
		cmd.Stdout, cmd.Stderr = g.con, g.con
		cmd.Env = []string{"PATH=/bin"}
		err := cmd.Run()
		if ctx.Err() != nil {
			return
		}
		fmt.Fprintln(g.con, "guest agent ended:", err)
		select {
		case <-ctx.Done():
		case <-time.After(agentRestart):
		}
	}
}

// agentPort finds the device of the agent's port.
func agentPort() string {
	ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name") // the pattern is good
	for _, p := range ports {
		if name, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(name)) == agentPortName {
			return "/dev/" + filepath.Base(filepath.Dir(p))
		}
	}
	return ""
}
