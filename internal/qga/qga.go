// Package qga speaks to the QEMU guest agent inside a guest, through the host's
// end of its virtio-serial port: a Unix socket that QEMU serves.
//
// The socket has one user at a time; another one that connects waits, unheard,
// until the first has gone, and a third one is turned away. So each Agent holds a connection for one command
// only, and lets the callers of a process come one after the other. The agent
// works on one command at a time and forgets none: what was sent to an agent
// that hangs is done once it goes on, in order. Therefore every connection
// begins with a synchronisation, which skips the late answers of the ones
// before it, and nothing is ever waited for beyond the caller's context.
//
// The package is a leaf: it knows nothing of disaster recovery and anyone may
// import it. The protocol is QEMU's docs/interop/qemu-ga-ref.
package qga

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSilent means that no agent answered in time: it is not installed, does not
// run, or hangs.
var ErrSilent = errors.New("the guest agent does not answer")

// RefusedError is the agent's own refusal of a command.
type RefusedError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error prints what the agent said.
func (e *RefusedError) Error() string { return "the guest agent refused: " + e.Desc }

// Gone reports whether err means that nobody serves the socket any more: the
// guest's hypervisor has ended.
func Gone(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

const (
	// pingTime is how long an agent may take to answer a synchronisation.
	// An idle one does so within milliseconds; an emulated guest on a busy
	// host may take seconds.
	pingTime = 10 * time.Second
	// dialAgain is the time between attempts to connect to a busy socket.
	dialAgain = 20 * time.Millisecond
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 1 << 20
	// delimiter goes before the answer to a guest-sync-delimited. It is no
	// part of any UTF-8 text.
	delimiter = 0xff
)

// Agent is the agent of one guest. Its methods may be called at the same time.
type Agent struct {
	path string
	turn chan struct{} // holds one: the right to the socket
}

// New returns the agent behind a socket; it does not connect.
func New(path string) *Agent {
	return &Agent{path: path, turn: make(chan struct{}, 1)}
}

// Path returns the socket's path.
func (a *Agent) Path() string { return a.path }

// Ping proves that the agent answers.
func (a *Agent) Ping(ctx context.Context) error {
	return a.call(ctx, "guest-ping", nil, nil)
}

// Freeze runs the guest's hooks and freezes its file systems; it returns how
// many. An agent that refuses has thawed what it had frozen; one that did not
// answer in time may freeze later: Thaw then.
func (a *Agent) Freeze(ctx context.Context) (n int, err error) {
	err = a.call(ctx, "guest-fsfreeze-freeze", nil, &n)
	return n, err
}

// Frozen asks whether the file systems are frozen.
func (a *Agent) Frozen(ctx context.Context) (bool, error) {
	var status string
	err := a.call(ctx, "guest-fsfreeze-status", nil, &status)
	return status == "frozen", err
}

// Thaw thaws the file systems and returns how many were frozen still. A guest
// that is not frozen is left alone, with 0.
func (a *Agent) Thaw(ctx context.Context) (n int, err error) {
	err = a.call(ctx, "guest-fsfreeze-thaw", nil, &n)
	return n, err
}

// call runs one command on a connection of its own.
func (a *Agent) call(ctx context.Context, command string, args, result any) error {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for the agent's socket: %w: %w", command, ErrSilent, ctx.Err())
	}
	defer func() { <-a.turn }()
	conn, err := a.dial(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s := session{conn: conn, in: bufio.NewReaderSize(io.LimitReader(conn, maxAnswer), 4096)}
	err = s.synchronise()
	if err == nil {
		err = s.run(command, args, result)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err() // the connection was closed for it
	}
	return fmt.Errorf("%s: %w", command, silent(err))
}

// dial connects. QEMU lets hardly anybody wait at a socket that has a user: who
// finds no room there tries again until ctx ends.
func (a *Agent) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", a.path)
		if !errors.Is(err, unix.EAGAIN) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, silent(fmt.Errorf("%w: %w", err, ctx.Err()))
		case <-time.After(dialAgain):
		}
	}
}

// silent names the error of a connection that nothing came from.
func silent(err error) error {
	if refused := (*RefusedError)(nil); errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrSilent, err)
}

// session is one connection.
type session struct {
	conn net.Conn
	in   *bufio.Reader
}

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
}

// synchronise skips what the agent still had to say to others.
func (s *session) synchronise() error {
	if err := s.conn.SetDeadline(time.Now().Add(pingTime)); err != nil {
		return err
	}
	id := rand.Int64N(1 << 53) // fits every reader of JSON numbers
	// The delimiter ends a half command that somebody else left.
	if err := s.send([]byte{delimiter}, request{"guest-sync-delimited", map[string]int64{"id": id}}); err != nil {
		return err
	}
	for {
		if _, err := s.in.ReadBytes(delimiter); err != nil {
			return err
		}
		var got int64
		if err := s.answer(&got); err == nil && got == id {
			return s.conn.SetDeadline(time.Time{})
		}
	}
}

// run sends a command and reads its answer.
func (s *session) run(command string, args, result any) error {
	if err := s.send(nil, request{command, args}); err != nil {
		return err
	}
	return s.answer(result)
}

func (s *session) send(before []byte, r request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = s.conn.Write(append(append(before, line...), '\n'))
	return err
}

// answer reads one line.
func (s *session) answer(result any) error {
	line, err := s.in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var a struct {
		Return json.RawMessage `json:"return"`
		Error  *RefusedError   `json:"error"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &a); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	switch {
	case a.Error != nil:
		return a.Error
	case a.Return == nil:
		return errors.New("read answer: it holds neither a result nor an error")
	case result == nil:
		return nil
	}
	return json.Unmarshal(a.Return, result)
}
