package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/health"
	"rebound/internal/vault/monitor"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// ConditionsIn filters conditions; huma reads embedded structs only when exported.
type ConditionsIn struct {
	Object   string        `query:"object" doc:"a name, or KIND/NAME: what is open on it and on what belongs to it"`
	Code     string        `query:"code"`
	Severity rest.Severity `query:"severity" enum:"info,warning,critical"`
}

type historyIn struct {
	ConditionsIn
	Before int64 `query:"before" minimum:"0" doc:"only occurrences with a lower id"`
	Limit  int   `query:"limit" minimum:"0" maximum:"10000"`
}

// ConditionIn is a condition in the path; huma reads embedded structs only when exported.
type ConditionIn struct {
	ID int64 `path:"id"`
}

func (s *Server) healthRoutes(api huma.API) {
	add(api, route("GET", "/health", "show-health", "Show the health of everything, and what is open"), s.showHealth)
	add(api, route("GET", "/health/conditions", "list-conditions", "List the open conditions"), s.listConditions)
	add(api, route("GET", "/health/history", "list-condition-history", "List conditions that were, newest first"), s.conditionHistory)
	add(api, route("GET", "/health/settings", "show-health-settings", "Show the limits of conditions"), func(ctx context.Context, _ *struct{}) (*reply[rest.HealthSettings], error) {
		var out rest.HealthSettings
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = monitor.Settings(tx); return err })
		return &reply[rest.HealthSettings]{out}, err
	})
	add(api, route("PUT", "/health/settings", "put-health-settings", "Change the limits of conditions"), s.putHealthSettings)
	for _, r := range []struct {
		path, id, summary string
		do                func(context.Context, int64, rest.Note) (rest.Condition, error)
		expires           bool
	}{
		{"acknowledge", "acknowledge-condition", "Note that an occurrence has been seen", s.Health.Acknowledge, false},
		{"mute", "mute-condition", "Let a condition of an object not count until the note expires", s.Health.Mute, true},
	} {
		add(api, route("POST", "/health/conditions/{id}/"+r.path, r.id, r.summary), func(ctx context.Context, in *struct {
			ConditionIn
			Body rest.NoteRequest
		},
		) (*reply[rest.Condition], error) {
			if r.expires && in.Body.Seconds == 0 {
				return nil, problem.New(problem.InvalidRequest, "a mute says for how many seconds it holds")
			}
			n := rest.Note{By: caller(ctx), At: s.Now().UTC(), Text: in.Body.Text}
			if in.Body.Seconds > 0 {
				n.Until = n.At.Add(time.Duration(in.Body.Seconds) * time.Second)
			}
			c, err := r.do(ctx, in.ID, n)
			return &reply[rest.Condition]{c}, err
		})
	}
	add(api, route("POST", "/health/conditions/{id}/unmute", "unmute-condition", "Let a condition count again"), func(ctx context.Context, in *ConditionIn) (*reply[rest.Condition], error) {
		c, err := s.Health.Unmute(ctx, in.ID)
		return &reply[rest.Condition]{c}, err
	})
}

// listConditions is a page of what is open, the gravest first.
func (s *Server) listConditions(ctx context.Context, in *struct {
	ListIn
	ConditionsIn
},
) (*listReply[rest.Condition], error) {
	open, _ := s.Health.Conditions()
	grave := func(c rest.Condition) int {
		return slices.Index([]rest.Severity{rest.SeverityInfo, rest.SeverityWarning, rest.SeverityCritical}, c.Severity)
	}
	id := func(c rest.Condition) string { return fmt.Sprintf("%d %020d", 9-grave(c), c.ID) }
	return pageOf(ctx, in.ListIn, in.choose(open.All()), id, order[rest.Condition]{
		"severity": func(c rest.Condition) any { return grave(c) },
		"code":     func(c rest.Condition) any { return c.Code },
		"since":    func(c rest.Condition) any { return c.Since },
		"object":   func(c rest.Condition) any { return string(c.Object.Kind) + "/" + c.Object.ID },
	})
}

// choose filters a list of conditions.
func (in *ConditionsIn) choose(list []rest.Condition) []rest.Condition {
	out := []rest.Condition{}
	for _, c := range list {
		if (in.Object == "" || health.IsNamed(&c.Object, in.Object)) && (in.Code == "" || c.Code == in.Code) && (in.Severity == "" || c.Severity == in.Severity) {
			out = append(out, c)
		}
	}
	return out
}

func (s *Server) conditionHistory(ctx context.Context, in *historyIn) (*reply[rest.List[rest.Condition]], error) {
	limit := pageIn{Limit: in.Limit}.limit()
	out := []rest.Condition{}
	err := s.view(ctx, func(tx *store.Tx) error {
		for before := in.Before; len(out) < limit; {
			page, err := tx.ConditionHistory(before, limit)
			if err != nil {
				return err
			}
			out = append(out, in.choose(page)...)
			if len(page) < limit {
				break
			}
			before = page[len(page)-1].ID
		}
		return nil
	})
	return listOf(out[:min(len(out), limit)]), err
}

func (s *Server) putHealthSettings(ctx context.Context, in *struct{ Body rest.HealthSettings }) (*reply[rest.HealthSettings], error) {
	b := in.Body
	switch {
	case b.VolumeCritical > b.VolumeWarning:
		return nil, problem.New(problem.InvalidRequest, "volumeCriticalPercent is above volumeWarningPercent")
	case b.HeartbeatCritical < b.HeartbeatWarning:
		return nil, problem.New(problem.InvalidRequest, "heartbeatCriticalSeconds is below heartbeatWarningSeconds")
	case b.StallCritical < b.StallWarning:
		return nil, problem.New(problem.InvalidRequest, "stallCriticalSeconds is below stallWarningSeconds")
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error { return monitor.PutSettings(tx, b) })
	s.Health.Kick()
	return &reply[rest.HealthSettings]{b}, err
}

func (s *Server) showHealth(ctx context.Context, _ *struct{}) (*reply[rest.Health], error) {
	open, checked := s.Health.Conditions()
	out := rest.Health{
		Health: health.Grade(open.All()), Vault: health.Grade(open.OfVault()), Open: open.All(), Checked: checked,
		Sites: []rest.ObjectHealth{}, Gateways: []rest.ObjectHealth{}, Groups: []rest.ObjectHealth{}, Items: []rest.ObjectHealth{},
	}
	n := count(open.All())
	out.Critical, out.Warning, out.Info, out.Muted = n.Critical, n.Warning, n.Info, n.Muted
	err := s.view(ctx, func(tx *store.Tx) error {
		if err := tx.Preload(); err != nil {
			return err
		}
		sites, err := tx.Sites()
		if err != nil {
			return err
		}
		for _, x := range sites {
			unwell(&out.Sites, string(x.ID), open.OfSite(x.ID))
		}
		gateways, err := tx.Gateways("")
		if err != nil {
			return err
		}
		for _, x := range gateways {
			unwell(&out.Gateways, string(x.ID), open.OfGateway(x.ID))
		}
		groups, err := tx.Groups()
		for _, g := range groups {
			w := whereOf(&g)
			unwell(&out.Groups, string(g.ID), open.OfGroup(w))
			for _, m := range g.Members {
				unwell(&out.Items, string(m.Item), open.OfItem(w, m.Item))
			}
		}
		return err
	})
	return &reply[rest.Health]{out}, err
}

// counted is how many conditions there are of a severity; muted ones do not
// count.
type counted struct{ Critical, Warning, Info, Muted int }

func count(list []rest.Condition) (n counted) {
	for _, c := range list {
		switch {
		case c.Muted != nil:
			n.Muted++
		case c.Severity == rest.SeverityCritical:
			n.Critical++
		case c.Severity == rest.SeverityWarning:
			n.Warning++
		default:
			n.Info++
		}
	}
	return n
}

// unwell adds an object that is not ok.
func unwell(to *[]rest.ObjectHealth, id string, list []rest.Condition) {
	grade := health.Grade(list)
	if grade == rest.HealthOK {
		return
	}
	n := 0
	for _, c := range list {
		if c.Muted == nil {
			n++
		}
	}
	*to = append(*to, rest.ObjectHealth{ID: id, Health: grade, Conditions: n})
}

// whereOf says what a group depends on.
func whereOf(g *store.Group) health.Where {
	return health.Where{Group: g.ID, Gateways: []dr.GatewayID{g.HomeGateway, g.RecoveryGateway}, Sites: []dr.SiteID{g.Home, g.Recovery}}
}

// grade fills in what a view shows of health.
func grade(to *string, conditions *[]rest.Condition, list []rest.Condition) {
	*to, *conditions = health.Grade(list), list
}

// gradeGroup fills in the health of a group.
func (s *Server) gradeGroup(g *store.Group, out *rest.Replication) {
	open, _ := s.Health.Conditions()
	grade(&out.Health, &out.Conditions, open.OfGroup(whereOf(g)))
	if out.Problem == "" {
		out.Problem = health.Worst(out.Conditions)
	}
}
