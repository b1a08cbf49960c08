// Package qmptest is a scripted monitor: a QMP server on a Unix socket whose
// answers a test writes. It promises to behave on the wire as QEMU does,
// greeting and capability negotiation included. Tests only.
package qmptest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"rebound/internal/qmp"
)

// Call is a command that arrived.
type Call struct {
	Command string
	OOB     bool
	Args    json.RawMessage
}

// Handler answers a command. An error that is a *qmp.Error goes out as it is;
// ErrHang sends no answer, ErrDrop closes the connection.
type Handler func(args json.RawMessage) (any, error)

// What a Handler can return besides an answer.
var (
	ErrHang = errors.New("qmptest: no answer")
	ErrDrop = errors.New("qmptest: close the connection")
)

// Server is the monitor. Commands without a handler fail with CommandNotFound.
type Server struct {
	path string
	l    net.Listener
	wg   sync.WaitGroup

	mu       sync.Mutex
	oob      bool
	handlers map[string]Handler
	calls    []Call
	conns    map[net.Conn]struct{}
}

// New starts a monitor that ends with the test. It offers out-of-band
// execution.
func New(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp") // paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "q")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{path: path, l: l, oob: true, handlers: map[string]Handler{}, conns: map[net.Conn]struct{}{}}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		_ = l.Close()
		s.Drop()
		s.wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return s
}

// Path returns the socket's path.
func (s *Server) Path() string { return s.path }

// WithoutOOB makes later connections offer no out-of-band execution.
func (s *Server) WithoutOOB() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oob = false
}

// Handle sets the answer to a command.
func (s *Server) Handle(command string, h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[command] = h
}

// Calls returns the commands so far, qmp_capabilities left out.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Drop closes all connections.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Send puts bytes on every connection as they are.
func (s *Server) Send(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_, _ = c.Write([]byte(text))
	}
}

// Event sends an event as QEMU prints it.
func (s *Server) Event(name string, data any) error {
	body, err := json.Marshal(data)
	if err != nil {
		return err
	}
	now := time.Now()
	s.Send(fmt.Sprintf("{\"timestamp\": {\"seconds\": %d, \"microseconds\": %d}, \"event\": %q, \"data\": %s}\r\n", now.Unix(), now.Nanosecond()/1000, name, body))
	return nil
}

func (s *Server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		oob := s.oob
		s.mu.Unlock()
		s.wg.Go(func() {
			defer func() {
				_ = c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
			s.serve(c, oob)
		})
	}
}

type wire struct {
	Execute   string          `json:"execute"`
	ExecOOB   string          `json:"exec-oob"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
}

func (s *Server) serve(c net.Conn, oob bool) {
	caps := `[]`
	if oob {
		caps = `["oob"]`
	}
	s.write(c, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": `+caps+`}}`)
	r := bufio.NewScanner(c)
	r.Buffer(nil, 1<<20)
	for r.Scan() {
		var w wire
		if json.Unmarshal(r.Bytes(), &w) != nil {
			s.write(c, `{"error": {"class": "GenericError", "desc": "JSON parse error"}}`)
			continue
		}
		if !s.answer(c, w) {
			return
		}
	}
}

// answer reports whether the connection goes on.
func (s *Server) answer(c net.Conn, w wire) bool {
	call := Call{Command: w.Execute + w.ExecOOB, OOB: w.ExecOOB != "", Args: w.Arguments}
	if call.Command == "qmp_capabilities" {
		s.write(c, fmt.Sprintf(`{"return": {}, "id": %s}`, w.ID))
		return true
	}
	s.mu.Lock()
	s.calls = append(s.calls, call)
	h := s.handlers[call.Command]
	s.mu.Unlock()
	var result any
	var err error = &qmp.Error{Class: qmp.CommandNotFound, Desc: "The command " + call.Command + " has not been found"}
	if h != nil {
		result, err = h(w.Arguments)
	}
	switch e, refused := errors.AsType[*qmp.Error](err); {
	case errors.Is(err, ErrHang):
	case errors.Is(err, ErrDrop):
		return false
	case refused:
		body, _ := json.Marshal(e)
		s.write(c, fmt.Sprintf(`{"id": %s, "error": %s}`, w.ID, body))
	case err != nil:
		panic(err) // a defect of the test
	default:
		if result == nil {
			result = struct{}{}
		}
		body, merr := json.Marshal(result)
		if merr != nil {
			panic(merr)
		}
		s.write(c, fmt.Sprintf(`{"return": %s, "id": %s}`, body, w.ID))
	}
	return true
}

func (s *Server) write(c net.Conn, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = c.Write([]byte(line + "\r\n"))
}
