package api

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// audit writes down what was done or refused. Reading is not written down, a
// refused attempt to read is.
func (s *Server) audit(r *http.Request, rq *request, rec *recorder) {
	refused := rec.status == http.StatusUnauthorized || rec.status == http.StatusForbidden || rec.status == http.StatusTooManyRequests
	if r.Method == http.MethodGet && !refused {
		return
	}
	said := rec.said()
	row := rest.AuditRow{
		Time: s.Now().UTC(), Who: rq.who.Name, Role: string(rq.who.Role), Channel: string(rq.who.Channel), Credential: rq.who.Credential,
		From: rq.from, Request: rq.id, Method: r.Method, Path: r.URL.Path, Operation: rq.operation, Object: rq.object,
		DryRun: rq.dryRun, Status: rec.status, Outcome: outcomeOf(rq, rec.status),
	}
	if rec.status >= http.StatusBadRequest {
		row.Code = said.Code
	}
	if job, ok := strings.CutPrefix(rec.Header().Get("Location"), rest.Prefix+"/jobs/"); ok {
		row.Job = job
	}
	if name := firstOf(said.ID, said.Name); row.Object == "" && row.Outcome == "done" && name != "" && row.Job == "" {
		row.Object = singular(strings.Trim(strings.TrimPrefix(r.URL.Path, rest.Prefix), "/")) + "/" + name
	}
	if rq.who.Name == "" && refused && !s.strangers.first(row, s.Now()) {
		return
	}
	s.writeAudit(r.Context(), row)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func outcomeOf(rq *request, status int) string {
	switch {
	case rq.replayed:
		return "replayed"
	case status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage && status != http.StatusServiceUnavailable:
		return "failed"
	case status >= http.StatusBadRequest:
		return "refused"
	default:
		return "done"
	}
}

func (s *Server) writeAudit(ctx context.Context, rows ...rest.AuditRow) {
	err := s.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		for _, row := range rows {
			if err := tx.InsertAudit(row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.Log.Error("write audit log", "error", err)
	}
}

// auditDoor is audit for those who come with a certificate or a passphrase.
func (s *Server) auditDoor(r *http.Request, who, object, code string, status int) {
	rq := requestOf(r.Context())
	row := rest.AuditRow{
		Time: s.Now().UTC(), Who: who, Channel: string(auth.Control), From: rq.from, Request: rq.id,
		Method: r.Method, Path: r.URL.Path, Operation: rq.operation, Object: object, Status: status, Outcome: outcomeOf(rq, status), Code: code,
	}
	if status >= http.StatusBadRequest && !s.strangers.first(row, s.Now()) {
		return
	}
	s.writeAudit(r.Context(), row)
}

// strangers keeps a flood of attempts by somebody unknown from filling the
// audit log: the first one of an address and code is written at once, the
// others of the next minute as one row that counts them.
type strangers struct {
	mu   sync.Mutex
	seen map[string]*repeated
}

type repeated struct {
	row   rest.AuditRow
	since time.Time
	n     int
}

const (
	// strangersEvery is how often a flood gets a row.
	strangersEvery = time.Minute
	// maxStrangers bounds the memory; beyond it attempts are counted together.
	maxStrangers = 1000
)

// first takes an attempt in and reports whether it gets a row of its own.
func (s *strangers) first(row rest.AuditRow, now time.Time) bool {
	key := row.From + " " + row.Code + " " + row.Path
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]*repeated{}
	}
	if s.seen[key] == nil && len(s.seen) >= maxStrangers {
		key = "the rest"
	}
	if s.seen[key] == nil {
		s.seen[key] = &repeated{row: row, since: now}
		return true
	}
	s.seen[key].row = row
	s.seen[key].n++
	return false
}

// due returns the rows of the floods whose minute is over (of all of them at
// the end), and forgets those that were quiet.
func (s *strangers) due(now time.Time, all bool) []rest.AuditRow {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []rest.AuditRow
	for key, r := range s.seen {
		if !all && now.Sub(r.since) < strangersEvery {
			continue
		}
		if r.n == 0 {
			delete(s.seen, key)
			continue
		}
		row := r.row
		row.Repeated = r.n - 1
		out = append(out, row)
		r.since, r.n = now, 0
	}
	return out
}

// housekeeping writes the counted attempts and forgets what has expired, until
// the server is closed.
func (s *Server) housekeeping() {
	tick := time.NewTicker(strangersEvery / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.base.Done():
			if rows := s.strangers.due(s.Now(), true); len(rows) > 0 {
				s.writeAudit(context.WithoutCancel(s.base), rows...)
			}
			return
		}
		now := s.Now()
		if rows := s.strangers.due(now, false); len(rows) > 0 {
			s.writeAudit(s.base, rows...)
		}
		err := s.Store.Update(s.base, func(tx *store.Tx) error {
			if err := tx.PruneSessions(now.Add(-auth.SessionLife), now.Add(-auth.SessionIdle)); err != nil {
				return err
			}
			return tx.PruneChanges()
		})
		if err != nil && s.base.Err() == nil {
			s.Log.Warn("forget what has expired", "error", err)
		}
	}
}
