package image

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"rebound/internal/lab/wire"
)

// agentPackage is Debian's QEMU guest agent: what freezes file systems in real
// guests does so in the lab's too.
const agentPackage = "qemu-guest-agent"

// busybox is the guests' shell, for the agent's hook.
const busybox = "/bin/busybox"

// agentModules is what a guest loads for the agent's port.
func agentModules() []string { return []string{"virtio_console"} }

// freezeHook is what the agent runs with "freeze" before it freezes the file
// systems and with "thaw" after it thawed them, as a database's hook would be:
// it counts its freezes on the data volume.
const freezeHook = `#!/bin/sh
case "$1" in
freeze)
	n=0
	if [ -s /data0/` + wire.HookPath + ` ]; then read -r n < /data0/` + wire.HookPath + `; fi
	echo $((n + 1)) > /data0/` + wire.HookPath + `.new && mv /data0/` + wire.HookPath + `.new /data0/` + wire.HookPath + `
	;;
esac
`

// agentFiles is the agent with the libraries that it needs, by their paths in
// the guest.
type agentFiles map[string]string

var libraryPath = regexp.MustCompile(`(/\S+) \(0x`)

// guestAgent returns the unpacked agent, downloaded when the cache has none. Its
// libraries are the host's: they come with QEMU's own packages.
func (b *Builder) guestAgent(ctx context.Context) (agentFiles, error) {
	dir, err := b.cached("guest-agent", func(tmp string) error { return unpack(ctx, agentPackage, tmp) })
	if err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "usr/sbin/qemu-ga")
	out, err := exec.CommandContext(ctx, "ldd", program).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("not found")) {
		return nil, fmt.Errorf("find libraries of the guest agent (run scripts/install-deps): %w: %s", err, bytes.TrimSpace(out))
	}
	files := agentFiles{strings.TrimPrefix(wire.AgentProgram, "/"): program, strings.TrimPrefix(busybox, "/"): busybox}
	for _, m := range libraryPath.FindAllSubmatch(out, -1) {
		path := string(m[1])
		files[strings.TrimPrefix(path, "/")] = path
	}
	return files, nil
}
