package vaultkill

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/renameio/v2"

	"rebound/internal/dr"
	"rebound/internal/gateway"
	"rebound/internal/lifecycle"
	"rebound/internal/vault"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

const app = dr.GroupID("app")

// lab is a vault process and two gateway processes.
type lab struct {
	t    *testing.T
	dir  string // of the vault
	addr string
	bins [2]string
	doc  rest.Plan // the plan of the legs that are a plan's
	// second is another person, who approves.
	second *client.Client
	lives  int // vault processes so far
	life   time.Duration
	vault  *process
	home   *place
	cloud  *place
	c      *client.Client
}

// process is one child.
type process struct {
	cmd  *exec.Cmd
	done chan error
	log  *tail
	in   io.WriteCloser
	out  *bufio.Reader
}

// tail keeps the end of what a child says.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - 256<<10; n > 0 {
		t.buf = t.buf[n:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// newLab starts a vault and two gateways that have enrolled.
func newLab(t *testing.T, life time.Duration) *lab {
	t.Helper()
	l := &lab{t: t, dir: filepath.Join(t.TempDir(), "vault"), addr: freeAddr(t), life: life}
	l.must(os.MkdirAll(l.dir, 0o700))
	l.bins = [2]string{binary(0), binary(1)}
	t.Cleanup(func() {
		l.stopVault()
		for _, s := range []*place{l.home, l.cloud} {
			if s != nil && s.proc != nil {
				s.end()
			}
		}
		if t.Failed() && l.vault != nil {
			t.Logf("the vault's log ends:\n%s", l.vault.log)
		}
	})
	l.startVault()
	l.home, l.cloud = l.enroll("gw-home", "home"), l.enroll("gw-cloud", "cloud")
	l.connected()
	return l
}

func spawn(t *testing.T, binary string, env ...string) *process {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), env...)
	p := &process{cmd: cmd, done: make(chan error, 1), log: &tail{}}
	cmd.Stderr = p.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	return p
}

// startVault starts the next vault process; binaries take turns. One that kills
// itself before it is ready has done its part.
func (l *lab) startVault() {
	l.t.Helper()
	p := spawn(l.t, l.bins[l.lives%2], envRole+"=vault", envDir+"="+l.dir, envAddr+"="+l.addr, envLife+"="+l.life.String())
	l.lives++
	l.vault = p
	line, err := p.out.ReadString('\n')
	go func() {
		_, _ = io.Copy(io.Discard, p.out)
		p.done <- p.cmd.Wait()
	}()
	if err == nil && line == "ready\n" {
		if l.c == nil {
			l.login()
		}
		return
	}
	end := <-p.done
	p.done <- end
	if !killed(end) {
		l.t.Fatalf("vault process: %v\n%s", end, p.log)
	}
}

func killed(err error) bool {
	ee, ok := err.(*exec.ExitError)
	if !ok {
		return false
	}
	ws, ok := ee.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// arm says where the vault kills itself from now on.
func (l *lab) arm(places ...string) {
	l.t.Helper()
	path := filepath.Join(l.dir, armedFile)
	if len(places) == 0 {
		l.must(os.RemoveAll(path))
		return
	}
	l.must(renameio.WriteFile(path, []byte(strings.Join(places, "\n")+"\n"), 0o600))
}

// stopVault ends the vault in order.
func (l *lab) stopVault() {
	if l.vault == nil {
		return
	}
	_ = l.vault.cmd.Process.Signal(syscall.SIGTERM) // it may have died
	end := <-l.vault.done
	l.vault.done <- end
}

func (l *lab) login() {
	l.t.Helper()
	ca, err := os.ReadFile(filepath.Join(l.dir, vault.CAFile))
	l.must(err)
	token, err := os.ReadFile(filepath.Join(l.dir, vault.TokenFile))
	l.must(err)
	l.c, err = client.New(client.Config{URL: "https://" + l.addr, Token: strings.TrimSpace(string(token)), CA: ca})
	l.must(err)
	l.t.Cleanup(l.c.Close)
}

// place is one gateway process.
type place struct {
	l    *lab
	name dr.GatewayID
	at   dr.SiteID
	dir  string
	run  string
	proc *process
}

func (l *lab) enroll(name dr.GatewayID, at dr.SiteID) *place {
	l.t.Helper()
	run, err := os.MkdirTemp("", "vk") // socket paths are short
	l.must(err)
	l.t.Cleanup(func() { _ = os.RemoveAll(run) })
	s := &place{l: l, name: name, at: at, dir: filepath.Join(l.t.TempDir(), string(name)), run: run}
	_, err = l.c.CreateSite(l.t.Context(), rest.NewSite{ID: at})
	l.must(err)
	e, err := l.c.EnrollGateway(l.t.Context(), rest.NewGateway{ID: name, Site: at})
	l.must(err)
	l.must(os.MkdirAll(s.dir, 0o700))
	l.must(gateway.Enroll(l.t.Context(), s.dir, gateway.Enrolment{Name: name, VaultAddr: l.addr}, e.Passphrase, []byte(e.CA)))
	s.start()
	return s
}

func (s *place) start() {
	s.l.t.Helper()
	exe, err := os.Executable()
	s.l.must(err)
	s.proc = spawn(s.l.t, exe, envRole+"=gateway", envDir+"="+s.dir, envAddr+"="+s.run)
	if line, err := s.proc.out.ReadString('\n'); line != "ready\n" {
		s.l.t.Fatalf("gateway %s: %v\n%s", s.name, err, s.proc.log)
	}
}

// end closes the gateway's standard input, which ends it in order.
func (s *place) end() {
	_ = s.proc.in.Close()
	_, _ = io.Copy(io.Discard, s.proc.out)
	_ = s.proc.cmd.Wait()
	if s.l.t.Failed() {
		s.l.t.Logf("the log of %s ends:\n%s", s.name, lastLines(s.proc.log.String(), 40))
	}
	s.proc = nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (s *place) do(o order) answer {
	s.l.t.Helper()
	b, err := json.Marshal(o)
	s.l.must(err)
	_, err = s.proc.in.Write(append(b, '\n'))
	s.l.must(err)
	line, err := s.proc.out.ReadBytes('\n')
	if err != nil {
		s.l.t.Fatalf("gateway %s: %v\n%s", s.name, err, s.proc.log)
	}
	var a answer
	s.l.must(json.NewDecoder(bytes.NewReader(line)).Decode(&a))
	if a.Error != "" {
		s.l.t.Fatalf("gateway %s: %s: %s", s.name, o.Do, a.Error)
	}
	return a
}

func (s *place) machines() map[dr.MachineName]view { return s.do(order{Do: "machines"}).Machines }

// until waits for a condition and fails the test when it does not come.
func (l *lab) until(what string, f func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (l *lab) connected() {
	l.t.Helper()
	l.until("the gateways are connected", func() bool {
		for _, s := range []*place{l.home, l.cloud} {
			if g, err := l.c.Gateway(l.t.Context(), s.name); err != nil || !g.Connected {
				return false
			}
		}
		return true
	})
}

func (l *lab) group() (rest.Group, error) { return l.c.Group(l.t.Context(), app) }

func (l *lab) allowed(op lifecycle.Operation) bool {
	g, err := l.group()
	if err != nil {
		return false
	}
	for _, s := range g.AllowedOperations {
		if s.Name == op {
			return s.Allowed
		}
	}
	return false
}

func (l *lab) untilState(want lifecycle.State) rest.Group {
	l.t.Helper()
	var g rest.Group
	l.until("state "+string(want), func() bool {
		var err error
		g, err = l.group()
		return err == nil && g.State == want && g.RunningJob == ""
	})
	return g
}

// addMachines puts two running machines at home.
func (l *lab) addMachines() {
	l.t.Helper()
	for i, m := range members {
		l.home.do(order{Do: "add", Machine: m})
		l.home.do(order{Do: "write", Machine: m, Byte: byte(i + 1)})
	}
	l.listed("home")
}

// listed waits until the vault knows that the machines run at a site.
func (l *lab) listed(at dr.SiteID) {
	l.t.Helper()
	l.until("the vault lists the machines", func() bool {
		for _, m := range members {
			if got, err := l.c.Machine(l.t.Context(), at, m); err != nil || got.State != "running" {
				return false
			}
		}
		return true
	})
}

var members = []dr.MachineName{"web", "db"}
