package api

import (
	"context"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

func (s *Server) auditRoutes(api huma.API) {
	add(api, route("GET", "/audit", "list-audit", "List who did what from where"), s.listAudit)
	add(api, route("GET", "/audit/check", "verify-audit", "Check that no row of the audit log was changed or removed"), func(ctx context.Context, in *struct {
		Seq  int64  `query:"seq" minimum:"0" doc:"of an earlier check: the newest row then"`
		Hash string `query:"hash" doc:"of that row"`
	},
	) (*reply[rest.AuditCheck], error) {
		if (in.Seq == 0) != (in.Hash == "") {
			return nil, problem.New(problem.InvalidRequest, "seq and hash go together")
		}
		var out rest.AuditCheck
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.CheckAudit(in.Seq, in.Hash); return err })
		return &reply[rest.AuditCheck]{out}, err
	})
}

func (s *Server) listAudit(ctx context.Context, in *struct {
	LogIn
	Who       string    `query:"who" doc:"only what this user or service token did"`
	Object    string    `query:"object" doc:"only what was done to this, such as group/app"`
	Operation string    `query:"operation" doc:"only this operation, such as failover or create-user"`
	Outcome   string    `query:"outcome" enum:"done,refused,failed,replayed"`
	Channel   string    `query:"channel" enum:"portal,cli,token,control"`
	From      time.Time `query:"from"`
	To        time.Time `query:"to"`
},
) (*listReply[rest.AuditRow], error) {
	newest, err := in.newestFirst()
	if err != nil {
		return nil, err
	}
	f := store.AuditFilter{
		Limit: in.limit() + 1, Who: in.Who, Object: in.Object, Operation: in.Operation, Outcome: in.Outcome, Channel: in.Channel,
		From: in.From, To: in.To, NewestFirst: newest,
	}
	if newest {
		f.BeforeSeq = in.After
	} else {
		f.After = in.After
	}
	var rows []rest.AuditRow
	if err := s.view(ctx, func(tx *store.Tx) (err error) { rows, err = tx.Audit(f); return err }); err != nil {
		return nil, err
	}
	return logPage(ctx, rows, in.limit(), func(r rest.AuditRow) int64 { return r.Seq }), nil
}

// LogIn are the query parameters of logs: rows with a number that grows.
type LogIn struct {
	After int64  `query:"after" minimum:"0" doc:"the number of the last row that was read; with sort=-seq, rows before it"`
	Limit int    `query:"limit" minimum:"0" maximum:"10000" doc:"rows at most (1000)"`
	Sort  string `query:"sort" doc:"seq (oldest first) or -seq"`
}

func (in LogIn) limit() int { return limitOf(in.Limit) }

func (in LogIn) newestFirst() (bool, error) {
	switch in.Sort {
	case "", "seq":
		return false, nil
	case "-seq":
		return true, nil
	default:
		return false, problem.New(problem.InvalidRequest, "cannot sort by %q: want seq or -seq", in.Sort)
	}
}

// logPage cuts a page off rows of which one more than the limit was read.
func logPage[T any](ctx context.Context, rows []T, limit int, seq func(T) int64) *listReply[T] {
	out := &listReply[T]{}
	if len(rows) > limit {
		rows = rows[:limit]
		out.next(ctx, fmt.Sprint(seq(rows[limit-1])))
	}
	out.Body.Items = rows
	if rows == nil {
		out.Body.Items = []T{}
	}
	return out
}
