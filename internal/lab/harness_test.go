package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/collector"
	"rebound/internal/lab/image"
	"rebound/internal/lab/wire"
)

// bootTimeout bounds each wait for a guest; a loaded machine is slow.
const bootTimeout = 150 * time.Second

func builder(t *testing.T) *image.Builder {
	t.Helper()
	b, err := image.NewBuilder(image.Config{CacheDir: os.Getenv("REBOUND_LAB_CACHE")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func startCollector(t *testing.T) *collector.Collector {
	t.Helper()
	c, err := collector.Start(t.Context(), collector.Config{EvidenceDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close collector: %v", err)
		}
	})
	return c
}

// machine is a QEMU process that a test started.
type machine struct {
	t       *testing.T
	cmd     *exec.Cmd
	qmp     string
	agent   string
	started time.Time
	exited  chan struct{}

	mu      sync.Mutex
	events  []wire.Event
	console bytes.Buffer
	changed chan struct{}
}

// startMachine runs a guest under TCG; netdevs are QEMU -netdev arguments, one
// for each of the definition's cards. The guest agent has a socket, and no port
// until plugAgent.
func startMachine(t *testing.T, r *image.Result, netdevs ...string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{
		t: t, qmp: filepath.Join(dir, "qmp"), agent: filepath.Join(dir, "agent"),
		exited: make(chan struct{}), changed: make(chan struct{}), started: time.Now(),
	}
	def := r.Definition
	args := []string{
		"-name", string(def.Name), "-uuid", def.UUID, "-machine", def.MachineType + ",accel=tcg", "-cpu", "max",
		"-m", fmt.Sprint(def.MemoryMiB), "-smp", fmt.Sprint(def.CPUs), "-nodefaults", "-display", "none",
		"-serial", "stdio", "-qmp", "unix:" + m.qmp + ",server=on,wait=off", "-no-reboot",
		"-device", "virtio-serial-pci,id=ports,max_ports=2", "-chardev", "socket,id=agent,path=" + m.agent + ",server=on,wait=off",
	}
	if def.Firmware == dr.UEFI {
		vars := filepath.Join(dir, "vars.fd")
		if err := exec.Command("cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", vars).Run(); err != nil {
			t.Fatalf("copy UEFI variables: %v", err)
		}
		args = append(args, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,unit=1,format=raw,file="+vars)
	}
	for i, disk := range r.Disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,cache=writeback,file=%s", i, disk),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,bootindex=%d,serial=%s", i, i, def.Disks[i].Serial))
	}
	for i, nd := range netdevs {
		args = append(args, "-netdev", nd+fmt.Sprintf(",id=n%d", i),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=%s,romfile=", i, def.NICs[i].MAC))
		if nic := def.NICs[i]; nic.Address != nil {
			card := dr.GuestCard{MAC: nic.MAC, Address: *nic.Address}
			args = append(args, "-smbios", "type=11,value="+strings.ReplaceAll(card.String(), ",", ",,"))
		}
	}
	m.cmd = exec.Command("qemu-system-x86_64", args...)
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	if err := m.cmd.Start(); err != nil {
		t.Fatalf("start QEMU: %v", err)
	}
	go func() {
		m.read(bufio.NewReader(out))
		_ = m.cmd.Wait()
		close(m.exited)
	}()
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("console of %s:\n%s%s", def.Name, m.console.String(), stderr.String())
		}
	})
	return m
}

// read collects console lines until QEMU ends.
func (m *machine) read(r *bufio.Reader) {
	for {
		line, err := r.ReadBytes('\n')
		m.mu.Lock()
		fmt.Fprintf(&m.console, "%7.3f %s", time.Since(m.started).Seconds(), line)
		if e, ok := wire.ParseLine(line); ok {
			m.events = append(m.events, e)
			close(m.changed)
			m.changed = make(chan struct{})
		}
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await waits for a console event.
func (m *machine) await(what string, ok func(wire.Event) bool) wire.Event {
	m.t.Helper()
	deadline := time.After(bootTimeout)
	for next := 0; ; {
		m.mu.Lock()
		events, changed := m.events, m.changed
		m.mu.Unlock()
		for ; next < len(events); next++ {
			if ok(events[next]) {
				return events[next]
			}
		}
		select {
		case <-changed:
		case <-m.exited:
			m.t.Fatalf("QEMU ended before %s", what)
		case <-deadline:
			m.t.Fatalf("no %s within %v", what, bootTimeout)
		}
	}
}

// kill is the plug.
func (m *machine) kill() {
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.exited
}

// monitor gives QEMU a command and demands that it is done.
func (m *machine) monitor(command string) {
	m.t.Helper()
	conn, err := net.Dial("unix", m.qmp)
	if err != nil {
		m.t.Fatalf("dial QMP: %v", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(`{"execute":"qmp_capabilities"}` + command)); err != nil {
		m.t.Fatalf("%s: %v", command, err)
	}
	// The greeting, and two answers among events.
	for in, answers := bufio.NewScanner(conn), 0; answers < 2; {
		if !in.Scan() || bytes.Contains(in.Bytes(), []byte(`"error"`)) {
			m.t.Fatalf("%s: %s, %v", command, in.Bytes(), in.Err())
		}
		if bytes.Contains(in.Bytes(), []byte(`"return"`)) {
			answers++
		}
	}
}

// plugAgent gives the running machine the guest agent's port.
func (m *machine) plugAgent() {
	m.t.Helper()
	m.monitor(`{"execute":"device_add","arguments":{"driver":"virtserialport","bus":"ports.0","id":"port","chardev":"agent","name":"org.qemu.guest_agent.0"}}`)
}

// pressPower presses the power button and waits for QEMU to end.
func (m *machine) pressPower() {
	m.t.Helper()
	m.monitor(`{"execute":"system_powerdown"}`)
	select {
	case <-m.exited:
	case <-time.After(bootTimeout):
		m.t.Fatal("guest does not power off")
	}
}

func (m *machine) sawEvent(kind string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Event == kind {
			return true
		}
	}
	return false
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	t.Cleanup(cancel)
	return ctx
}

func short(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts machines")
	}
	for _, tool := range strings.Fields("qemu-system-x86_64 mkfs.ext4 syslinux mcopy debugfs") {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: run scripts/install-deps", err)
		}
	}
}
