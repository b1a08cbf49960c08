package portal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

const (
	// tellEvery is how often a page is told of changes at most.
	tellEvery = 500 * time.Millisecond
	// beatEvery is how often a silent stream says that it lives.
	beatEvery = 15 * time.Second
	// liveWrite is how long a browser may take to read what is sent.
	liveWrite = 10 * time.Second
)

// live tells a page which types of things have changed, so that it fetches its
// parts again. It reads the API's stream of changes as the person who watches.
func (p *Portal) live(w http.ResponseWriter, r *http.Request) {
	rq := p.request(w, r)
	if err := rq.identify(); err != nil {
		http.Error(w, "nobody is signed in", http.StatusUnauthorized)
		return
	}
	o := client.WatchOptions{Group: dr.GroupID(r.URL.Query().Get("group"))}
	for _, t := range strings.FieldsFunc(r.URL.Query().Get("types"), func(c rune) bool { return c == ',' }) {
		if t != rest.ChangeReset {
			o.Types = append(o.Types, t)
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	changes := make(chan rest.Change)
	ended := make(chan error, 1)
	o.Opened = func() error {
		select {
		case changes <- rest.Change{Type: rest.ChangeReady}:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	go func() {
		ended <- rq.API.Watch(ctx, o, func(c rest.Change) error {
			select {
			case changes <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	t := &teller{w: w, rc: http.NewResponseController(w), limit: liveWrite}
	if err := t.run(ctx, changes, ended); err != nil && ctx.Err() == nil {
		p.Log.Debug("tell a page of changes", "error", err)
	}
}

// teller sends notes to one page.
type teller struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	limit   time.Duration // of each write
	changed []string
	opened  bool
}

func (t *teller) send(event string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return t.raw(fmt.Sprintf("event: %s\ndata: %s\n\n", event, b))
}

func (t *teller) raw(text string) error {
	if err := t.rc.SetWriteDeadline(time.Now().Add(t.limit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := t.w.Write([]byte(text)); err != nil {
		return err
	}
	if err := t.rc.Flush(); err != nil {
		return err
	}
	return forgetDeadline(t.rc)
}

// forgetDeadline ends the deadline of a write that was made. Over HTTP/2 it would
// reset the stream later, though nothing is being written then.
func forgetDeadline(rc *http.ResponseController) error {
	if err := rc.SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// take keeps what a change says; the page is told a little later, of several
// changes at once.
func (t *teller) take(c rest.Change) error {
	switch c.Type {
	case rest.ChangeReady:
		if !t.opened {
			t.opened = true
			return t.send("ready", struct{}{})
		}
		c.Type = rest.ChangeReset // the stream broke in between
	}
	if !slices.Contains(t.changed, c.Type) {
		t.changed = append(t.changed, c.Type)
	}
	return nil
}

func (t *teller) run(ctx context.Context, changes <-chan rest.Change, ended <-chan error) error {
	tell, beat := time.NewTicker(tellEvery), time.NewTicker(beatEvery)
	defer tell.Stop()
	defer beat.Stop()
	for {
		var err error
		select {
		case c := <-changes:
			err = t.take(c)
		case <-tell.C:
			if len(t.changed) > 0 {
				err = t.send("change", map[string]any{"types": t.changed})
				t.changed = nil
			}
		case <-beat.C:
			err = t.raw(":\n\n")
		case err := <-ended:
			if problem.HasCode(err, problem.NotAuthenticated) {
				return t.send("end", struct{}{})
			}
			return err
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}
