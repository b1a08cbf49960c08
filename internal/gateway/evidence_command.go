package gateway

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rebound/internal/dr"
)

// maxProbeOutput is how much of a probe's output is told when it fails.
const maxProbeOutput = 1 << 10

// probeCommand runs a program of the gateway's folder "scripts". Who may put
// programs there has the host already; a request can only choose among them.
func (g *Gateway) probeCommand(ctx context.Context, p dr.Probe) error {
	words := strings.Fields(p.Command)
	path := filepath.Join(g.cfg.Dir, "scripts", words[0])
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("there is no script %q in the folder scripts of the gateway's data", words[0])
	}
	cmd := exec.CommandContext(ctx, path, words[1:]...)
	cmd.Dir = filepath.Dir(path)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "REBOUND_MACHINE=" + string(p.Machine), "REBOUND_SITE=" + string(g.cfg.Site)}
	// The whole group: a script's children must not outlive its time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("it took longer than %s", p.Timeout())
	}
	out = bytes.TrimSpace(out)
	if len(out) > maxProbeOutput {
		out = out[len(out)-maxProbeOutput:]
	}
	if len(out) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, out)
}
