package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
)

const (
	// streamBeat is how often a stream says that it lives, and looks whether
	// its caller still may listen.
	streamBeat = 15 * time.Second
	// streamWrite is how long a client may take to read what is sent.
	streamWrite = 10 * time.Second
)

type streamIn struct {
	LastEventID string     `header:"Last-Event-ID" doc:"the last change that the client knows; the stream goes on after it"`
	After       string     `query:"after" doc:"the same, for clients that cannot set the header"`
	Types       string     `query:"types" doc:"only these, separated by commas, such as job,task,event"`
	Group       dr.GroupID `query:"group" doc:"only what is about this group"`
}

func (s *Server) streamRoutes(api huma.API) {
	op := route("GET", "/events/stream", "watch-events", "Tell every change as it happens (server-sent events)")
	op.Description = "Each message has the type as its event, a rest.Change as its data, and, when it has a place in the order, its number as its id. " +
		"A client that comes back with Last-Event-ID misses nothing; after 'reset' it must read everything anew."
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A stream that ends when the client goes, reads too slowly, or may not listen any more",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: "string"}, Example: "id: 4711\nevent: job\ndata: {\"seq\":4711,\"type\":\"job\",\"id\":\"0b5c…\",\"object\":{…}}\n\n"}},
	}}
	add(api, op, func(_ context.Context, in *streamIn) (*huma.StreamResponse, error) {
		w, after, err := in.watcher()
		if err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			r, rw := humago.Unwrap(ctx)
			s.stream(rw, r, w, after)
		}}, nil
	})
}

func (in *streamIn) watcher() (*watcher, int64, error) {
	after := int64(-1)
	for _, v := range []string{in.LastEventID, in.After} {
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return nil, 0, problem.New(problem.InvalidRequest, "%q is not the id of a change", v)
		}
		after = n
		break
	}
	w := &watcher{group: in.Group, queue: make(chan message, watcherBuffer), recheck: make(chan struct{}, 1)}
	known := []string{
		rest.ChangeJob, rest.ChangeTask, rest.ChangeItem, rest.ChangeGroup, rest.ChangeGateway, rest.ChangeMachine, rest.ChangeEvent,
		rest.ChangeHealth, rest.ChangePlan, "plan-run", rest.ChangePolicy, rest.ChangeSite, rest.ChangeLive, "agent", "mapping", "mute",
	}
	for _, t := range strings.FieldsFunc(in.Types, func(r rune) bool { return r == ',' }) {
		if !slices.Contains(known, t) {
			return nil, 0, problem.New(problem.InvalidRequest, "there is no type %q: want some of %s", t, strings.Join(known, ", "))
		}
		w.types = append(w.types, t)
	}
	return w, after, nil
}

// sse writes server-sent events.
type sse struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (e sse) raw(text string) error {
	if err := e.rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return err
	}
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	if err := e.rc.Flush(); err != nil {
		return err
	}
	// Over HTTP/2 the deadline would reset the stream in its next silence.
	return e.rc.SetWriteDeadline(time.Time{})
}

func (e sse) change(c rest.Change) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	id := ""
	if c.Seq > 0 {
		id = fmt.Sprintf("id: %d\n", c.Seq)
	}
	return e.raw(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", id, c.Type, data))
}

// stream serves one client.
func (s *Server) stream(rw http.ResponseWriter, r *http.Request, w *watcher, after int64) {
	missed, at, reset, err := s.feed.watch(r.Context(), w, after)
	if err != nil {
		writeProblem(rw, err)
		return
	}
	defer s.feed.leave(w)
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("Cache-Control", "no-store")
	rw.WriteHeader(http.StatusOK)
	out := sse{rw, http.NewResponseController(rw)}
	first := []rest.Change{}
	if reset {
		first = append(first, rest.Change{Type: rest.ChangeReset})
	}
	for _, m := range missed {
		first = append(first, m.Change)
	}
	first = append(first, rest.Change{Seq: at, Type: rest.ChangeReady})
	for _, c := range first {
		if out.change(c) != nil {
			return
		}
	}
	s.follow(out, r, w)
}

func (s *Server) follow(out sse, r *http.Request, w *watcher) {
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case m, ok := <-w.queue:
			if !ok {
				out.change(rest.Change{Type: rest.ChangeDropped}) //nolint:errcheck // the stream ends anyhow
				return
			}
			err = out.change(m.Change)
		case <-w.recheck:
			if !s.mayListen(r) {
				out.change(rest.Change{Type: rest.ChangeEnd}) //nolint:errcheck // the stream ends anyhow
				return
			}
		case <-beat.C:
			if !s.mayListen(r) {
				out.change(rest.Change{Type: rest.ChangeEnd}) //nolint:errcheck // the stream ends anyhow
				return
			}
			err = out.raw(":\n\n")
		case <-r.Context().Done():
			return
		case <-s.base.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// mayListen reports whether the caller of a stream is still who he was.
func (s *Server) mayListen(r *http.Request) bool {
	who, err := s.identify(r)
	if err != nil && !problem.HasCode(err, problem.NotAuthenticated) {
		return true // the database's trouble is not the caller's
	}
	return err == nil && who.Role.Allows(auth.Routes()["watch-events"].Role)
}
