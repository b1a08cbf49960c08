package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"rebound/internal/problem"
)

// Server runs commands for a vault. It outlives connections: a command goes on
// when its connection breaks, and the vault joins it over the next one.
type Server struct {
	commands Commands
	ledger   *Ledger
	log      *slog.Logger
	table    map[string]entry
	now      func() time.Time

	base   context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	running map[ledgerKey]*execution
}

// execution is one command in flight.
type execution struct {
	command  string
	done     chan struct{}
	mu       sync.Mutex
	progress Progress
	row      ledgerRow // valid after done
	err      error     // not to be kept: shutdown, ledger broken
}

// errStopping is the cause of the contexts of commands when the server closes.
var errStopping = errors.New("the gateway is stopping")

// NewServer returns a server that is not connected yet. Commands run under
// ctx's values but end with Close only.
func NewServer(ctx context.Context, commands Commands, ledger *Ledger, log *slog.Logger) *Server {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	return &Server{
		commands: commands, ledger: ledger, log: log, table: commandTable(), now: time.Now,
		base: base, cancel: cancel, running: map[ledgerKey]*execution{},
	}
}

// Close stops the commands in flight and waits for them. They are not
// recorded: the next process runs them again when the vault repeats them.
func (s *Server) Close() {
	s.cancel(errStopping)
	s.wg.Wait()
}

// Serve answers commands on conn until it breaks or ctx ends; it closes conn.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	ln := newOneConn(conn)
	hs := &http.Server{
		Handler: s, Protocols: onlyHTTP2(), HTTP2: pings(), BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, st http.ConnState) {
			if st == http.StateClosed {
				ln.Close()
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { hs.Close() })
	defer stop()
	defer hs.Close()
	err := hs.Serve(ln)
	if e := ctx.Err(); e != nil {
		return e
	}
	if errors.Is(err, net.ErrClosed) {
		return io.EOF
	}
	return err
}

// Serve answers commands on one connection until it breaks or ctx ends. It is
// for callers with a single connection; a gateway keeps a Server and uses Run.
func Serve(ctx context.Context, conn net.Conn, commands Commands, ledger *Ledger) error {
	s := NewServer(ctx, commands, ledger, slog.New(slog.DiscardHandler))
	defer s.Close()
	return s.Serve(ctx, conn)
}

// ServeHTTP implements POST /v1/command/{name}.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, commandPrefix)
	e, known := s.table[name]
	if !ok || !known || r.Method != http.MethodPost {
		s.answer(w, http.StatusNotFound, reply{Problem: problem.New(problem.ProtocolError, "this gateway knows no command %q", r.URL.Path)})
		return
	}
	var req request
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&req); err != nil {
		s.answer(w, http.StatusBadRequest, reply{Problem: problem.Wrap(err, problem.ProtocolError, "cannot read a command")})
		return
	}
	if !e.changes {
		s.answer(w, http.StatusOK, s.query(r.Context(), e, req))
		return
	}
	s.answer(w, http.StatusOK, s.change(r.Context(), e, req))
}

func (s *Server) answer(w http.ResponseWriter, status int, rep reply) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(rep); err != nil {
		s.log.Debug("answer command", "error", err)
	}
}

func (s *Server) query(ctx context.Context, e entry, req request) reply {
	res, err := e.run(ctx, s.commands, Origin{}, req.Args)
	if err != nil {
		return reply{Problem: problem.From(err).Plain()}
	}
	raw, err := encode(res)
	if err != nil {
		return reply{Problem: problem.From(err).Plain()}
	}
	return reply{Done: true, Result: raw}
}

func (s *Server) change(ctx context.Context, e entry, req request) reply {
	if req.Origin == nil || req.Origin.Job == "" || req.Origin.Task == "" {
		return reply{Problem: problem.New(problem.ProtocolError, "command %s came without job or task", e.name)}
	}
	if err := s.ledger.admit(req.Origin.Lease); err != nil {
		return reply{Problem: problem.From(err).Plain()}
	}
	x, err := s.join(e, *req.Origin, req.Args)
	if err != nil {
		return reply{Problem: problem.From(err).Plain()}
	}
	wait := min(time.Duration(req.WaitMillis)*time.Millisecond, maxWait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-x.done:
		return x.reply()
	case <-timer.C:
	case <-ctx.Done():
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return reply{Running: true, Progress: x.progress}
}

// join returns the execution of an origin: the one in flight, a finished one
// made from the ledger, or a new one.
func (s *Server) join(e entry, o Origin, args json.RawMessage) (*execution, error) {
	key := ledgerKey{o.Job, o.Task}

	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.running[key]; ok {
		if x.command != e.name {
			return nil, problem.New(problem.ProtocolError, "task %s of job %s is running as %s and comes back as %s", o.Task, o.Job, x.command, e.name)
		}
		return x, nil
	}
	row, kept, err := s.ledger.find(o, e.name)
	if err != nil {
		return nil, err
	}
	x := &execution{command: e.name, done: make(chan struct{})}
	if kept {
		x.row = row
		close(x.done)
		return x, nil
	}
	if s.base.Err() != nil {
		return nil, problem.Wrap(errStopping, problem.GatewayUnreachable, "the gateway is stopping")
	}
	s.running[key] = x
	s.wg.Go(func() { s.execute(x, e, o, args) })
	return x, nil
}

func (s *Server) execute(x *execution, e entry, o Origin, args json.RawMessage) {
	ctx := WithProgress(s.base, func(p Progress) {
		x.mu.Lock()
		x.progress = p
		x.mu.Unlock()
	})
	s.log.Info("command began", "command", e.name, "job", o.Job, "task", o.Task)
	row := ledgerRow{Job: o.Job, Task: o.Task, Command: e.name}
	res, err := s.runGuarded(ctx, e, o, args)
	if err == nil {
		row.Result, err = encode(res)
	}
	if err != nil {
		row.Problem = problem.From(err).Plain() // the cause is not encoded; its words are kept
	}
	row.At = s.now().UTC()
	if s.base.Err() != nil && err != nil {
		x.err = context.Cause(s.base) // cut short by Close: not a result
	} else {
		x.err = s.ledger.record(row)
	}
	x.row = row
	s.mu.Lock()
	delete(s.running, ledgerKey{o.Job, o.Task})
	s.mu.Unlock()
	close(x.done)
	s.log.Info("command ended", "command", e.name, "job", o.Job, "task", o.Task, "error", err)
}

// runGuarded turns a panic of one command into its failure: a defect in one
// group's handling must not end the captures of the others.
func (s *Server) runGuarded(ctx context.Context, e entry, o Origin, args json.RawMessage) (res any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("command panicked", "command", e.name, "job", o.Job, "task", o.Task, "panic", p)
			err = problem.New(problem.InternalError, "command %s panicked: %v", e.name, p)
		}
	}()
	return e.run(ctx, s.commands, o, args)
}

func (x *execution) reply() reply {
	switch {
	case x.err != nil:
		return reply{Problem: problem.Wrap(x.err, problem.GatewayUnreachable, "%v", x.err).Plain()}
	case x.row.Problem != nil:
		return reply{Problem: x.row.Problem}
	default:
		return reply{Done: true, Result: x.row.Result}
	}
}
