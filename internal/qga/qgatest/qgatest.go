// Package qgatest is a guest agent for tests, behind a Unix socket that behaves
// as QEMU's does: one user at a time, and what was sent to an agent that hangs
// is done once it goes on.
package qgatest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
)

// Guest is a guest with an agent. The fields may be changed under Lock while it
// is served.
type Guest struct {
	sync.Mutex
	// FileSystems is how many a freeze freezes.
	FileSystems int
	// Refuse, when not empty, is the agent's answer to a freeze: a hook failed.
	Refuse string
	// Hang holds up the agent before each command for as long as it is open.
	Hang chan struct{}
	// OnFreeze and OnThaw are called while the command runs; nil: nothing.
	OnFreeze, OnThaw func()

	frozen  bool
	freezes int
	work    chan work
	conn    net.Conn
}

type work struct {
	line []byte
	conn net.Conn
}

// Serve serves a guest with two file systems at a socket until the test ends.
func Serve(t testing.TB, path string) *Guest {
	t.Helper()
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return ServeOn(t, l)
}

// ServeOn is Serve at a listener, which it closes.
func ServeOn(t testing.TB, l net.Listener) *Guest {
	g := &Guest{FileSystems: 2, work: make(chan work, 256)}
	var wg sync.WaitGroup
	wg.Go(g.agent)
	wg.Go(func() {
		defer close(g.work)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.Lock()
			g.conn = conn
			g.Unlock()
			g.read(conn)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.Lock()
		if g.conn != nil {
			_ = g.conn.Close()
		}
		g.Unlock()
		wg.Wait()
	})
	return g
}

// Frozen reports whether the guest's file systems are frozen, and how often
// they were.
func (g *Guest) Frozen() (now bool, times int) {
	g.Lock()
	defer g.Unlock()
	return g.frozen, g.freezes
}

// ThawByItself is what Windows does after about 10 s.
func (g *Guest) ThawByItself() {
	g.Lock()
	defer g.Unlock()
	g.frozen = false
}

// read passes on what one user sends.
func (g *Guest) read(conn net.Conn) {
	defer conn.Close()
	dec := make([]byte, 0, 4096)
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		dec = append(dec, buf[:n]...)
		for {
			i := bytes.IndexByte(dec, '\n')
			if i < 0 {
				break
			}
			g.work <- work{bytes.Clone(dec[:i]), conn}
			dec = dec[i+1:]
		}
		if err != nil {
			return
		}
	}
}

// agent does one command after the other. An answer whose user has gone goes to
// the next one, as it does in the guest's buffers.
func (g *Guest) agent() {
	for w := range g.work {
		line := w.line
		if i := bytes.LastIndexByte(line, 0xff); i >= 0 {
			line = line[i+1:]
		}
		var req struct {
			Execute   string           `json:"execute"`
			Arguments map[string]int64 `json:"arguments"`
		}
		var out []byte
		if err := json.Unmarshal(line, &req); err != nil {
			out = refusal(err)
		} else {
			g.Lock()
			hang := g.Hang
			g.Unlock()
			if hang != nil {
				<-hang
			}
			out = g.do(req.Execute, req.Arguments)
		}
		g.Lock()
		conn := g.conn
		g.Unlock()
		_, _ = conn.Write(append(out, '\n'))
	}
}

func (g *Guest) do(command string, args map[string]int64) []byte {
	switch command {
	case "guest-sync-delimited":
		return append([]byte{0xff}, result(args["id"])...)
	case "guest-ping":
		return result(struct{}{})
	case "guest-fsfreeze-status":
		if frozen, _ := g.Frozen(); frozen {
			return result("frozen")
		}
		return result("thawed")
	case "guest-fsfreeze-freeze":
		return g.freeze()
	case "guest-fsfreeze-thaw":
		return g.thaw()
	}
	return refusal(fmt.Errorf("the command %s has not been found", command))
}

func (g *Guest) freeze() []byte {
	g.Lock()
	refuse, n, hook := g.Refuse, g.FileSystems, g.OnFreeze
	g.Unlock()
	if refuse != "" {
		return refusal(errors.New(refuse))
	}
	if hook != nil {
		hook()
	}
	g.Lock()
	defer g.Unlock()
	g.frozen = n > 0
	g.freezes++
	return result(n)
}

func (g *Guest) thaw() []byte {
	g.Lock()
	n, hook := 0, g.OnThaw
	if g.frozen {
		n = g.FileSystems
	}
	g.frozen = false
	g.Unlock()
	if hook != nil {
		hook()
	}
	return result(n)
}

func result(v any) []byte {
	b, err := json.Marshal(map[string]any{"return": v})
	if err != nil {
		panic(err)
	}
	return b
}

func refusal(err error) []byte {
	b, _ := json.Marshal(map[string]any{"error": map[string]string{"class": "GenericError", "desc": err.Error()}})
	return b
}
