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

// runGuestAgent runs the QEMU guest agent once the machine has a port for it; an
// imported machine may never have one.
func (g *guest) runGuestAgent(ctx context.Context) {
	port, err := waitAgentPort(ctx)
	if err != nil {
		if ctx.Err() == nil {
			g.con.event(wire.Event{Event: "error", Detail: "guest agent: " + err.Error()})
		}
		return
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

// waitAgentPort loads the port's driver and waits for the port. The driver's
// loading does not wait for it: the hypervisor names the ports afterwards, by
// messages, and may add one at any time.
func waitAgentPort(ctx context.Context) (string, error) {
	events, err := openUevents()
	if err != nil {
		return "", err
	}
	defer events.close()
	if err := loadList("/modules/agent"); err != nil {
		return "", err
	}
	for {
		if port := agentPort(); port != "" {
			return port, nil
		}
		if err := events.wait(ctx); err != nil {
			return "", err
		}
	}
}

// agentPort finds the device of the agent's port, "" while there is none.
func agentPort() string {
	ports, _ := filepath.Glob("/sys/class/virtio-ports/*/name") // the pattern is good
	for _, p := range ports {
		if name, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(name)) == agentPortName {
			return "/dev/" + filepath.Base(filepath.Dir(p))
		}
	}
	return ""
}
