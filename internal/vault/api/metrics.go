package api

import (
	"bytes"
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/metrics"
	"rebound/internal/vault/health"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// metricsPath is where Prometheus looks by default.
const metricsPath = "/metrics"

// MetricDefs is the table of what a vault tells Prometheus.
func MetricDefs() []metrics.Def {
	group := []string{"group"}
	return []metrics.Def{
		{Name: "rebound_vault_info", Help: "1, with the vault's id and version.", Labels: []string{"vault", "version"}},
		{Name: "rebound_health", Help: "The worst open condition: 0 ok, 1 warning, 2 critical."},
		{Name: "rebound_condition", Help: "1 for each open condition.", Labels: []string{"code", "severity", "kind", "object", "muted"}},
		{Name: "rebound_gateway_up", Help: "1 while the vault hears from the gateway.", Labels: []string{"gateway", "site"}},
		{Name: "rebound_gateway_last_report_timestamp_seconds", Help: "When the gateway last reported.", Labels: []string{"gateway"}},
		{Name: "rebound_gateway_clock_offset_seconds", Help: "The vault's clock minus the gateway's.", Labels: []string{"gateway"}},
		{Name: "rebound_gateway_certificate_end_timestamp_seconds", Help: "When the gateway's certificate ends.", Labels: []string{"gateway"}},
		{Name: "rebound_group_health", Help: "The group's health: 0 ok, 1 warning, 2 critical.", Labels: group},
		{Name: "rebound_group_state", Help: "1, with the group's state and active site.", Labels: []string{"group", "state", "active"}},
		{Name: "rebound_group_items", Help: "Machines of the group.", Labels: group},
		{Name: "rebound_group_rpo_seconds", Help: "How much would be lost now.", Labels: group},
		{Name: "rebound_group_rpo_threshold_seconds", Help: "The policy's threshold of the RPO.", Labels: group},
		{Name: "rebound_group_newest_point_age_seconds", Help: "Age of the newest recovery point.", Labels: group},
		{Name: "rebound_group_points", Help: "Recovery points that are kept.", Labels: group},
		{Name: "rebound_group_journal_bytes", Help: "Size of the group's journal.", Labels: group},
		{Name: "rebound_jobs_running", Help: "Jobs that have not ended, by operation.", Labels: []string{"operation"}},
		{Name: "rebound_webhook_waiting", Help: "Deliveries that wait for a webhook.", Labels: []string{"webhook"}},
		{Name: "rebound_webhook_given_up", Help: "Deliveries that were given up.", Labels: []string{"webhook"}},
	}
}

func level(grade string) float64 {
	switch grade {
	case rest.HealthCritical:
		return 2
	case rest.HealthWarning:
		return 1
	default:
		return 0
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// MetricSource reads the vault's numbers.
func (s *Server) MetricSource() metrics.Source {
	return metrics.Source{Defs: MetricDefs(), Read: func(ctx context.Context, emit metrics.Emit) error {
		open, _ := s.Health.Conditions()
		emit("rebound_vault_info", 1, s.CA.Vault(), s.Version)
		emit("rebound_health", level(health.Grade(open.All())))
		for _, c := range open.All() {
			muted := "false"
			if c.Muted != nil {
				muted = "true"
			}
			emit("rebound_condition", 1, c.Code, string(c.Severity), string(c.Object.Kind), c.Object.ID, muted)
		}
		return s.view(ctx, func(tx *store.Tx) error {
			if err := s.gatewayMetrics(tx, emit); err != nil {
				return err
			}
			groups, err := tx.Groups()
			if err != nil {
				return err
			}
			for i := range groups {
				if err := s.groupMetrics(tx, &groups[i], open, emit); err != nil {
					return err
				}
			}
			return jobMetrics(tx, emit)
		})
	}}
}

func (s *Server) gatewayMetrics(tx *store.Tx, emit metrics.Emit) error {
	gateways, err := tx.Gateways("")
	for _, g := range gateways {
		if g.State != "enrolled" {
			continue
		}
		id := string(g.ID)
		seen, off := s.Live.Gateway(g.ID)
		emit("rebound_gateway_up", truth(s.Hub.Connected(g.ID) && !s.Live.Quiet(g.ID, s.Now())), id, string(g.Site))
		emit("rebound_gateway_certificate_end_timestamp_seconds", float64(g.CertificateEnds.Unix()), id)
		if !seen.IsZero() {
			emit("rebound_gateway_last_report_timestamp_seconds", float64(seen.UnixMilli())/1000, id)
			emit("rebound_gateway_clock_offset_seconds", off.Seconds(), id)
		}
	}
	return err
}

func (s *Server) groupMetrics(tx *store.Tx, g *store.Group, open *health.Index, emit metrics.Emit) error {
	policy, err := tx.PolicyOf(g)
	if err != nil {
		return err
	}
	id, rpo := string(g.ID), s.Live.RPO(g, policy.RPOThreshold, s.Now())
	emit("rebound_group_health", level(health.Grade(open.OfGroup(whereOf(g)))), id)
	emit("rebound_group_state", 1, id, string(g.State), string(g.Active))
	emit("rebound_group_items", float64(len(g.Members)), id)
	emit("rebound_group_rpo_threshold_seconds", float64(rpo.ThresholdSeconds), id)
	if rpo.Seconds != nil {
		emit("rebound_group_rpo_seconds", *rpo.Seconds, id)
	}
	if rpo.NewestPointSeconds != nil {
		emit("rebound_group_newest_point_age_seconds", *rpo.NewestPointSeconds, id)
	}
	if said, ok := s.Live.Group(g.ID, g.Standby()); ok {
		emit("rebound_group_points", float64(said.Report.Points), id)
		emit("rebound_group_journal_bytes", float64(said.Report.JournalBytes), id)
	}
	return nil
}

func jobMetrics(tx *store.Tx, emit metrics.Emit) error {
	jobs, err := tx.OpenJobs()
	if err != nil {
		return err
	}
	running := map[string]float64{}
	for _, j := range jobs {
		running[string(j.Operation)]++
	}
	for op, n := range running {
		emit("rebound_jobs_running", n, op)
	}
	hooks, err := tx.Webhooks()
	for _, h := range hooks {
		emit("rebound_webhook_waiting", float64(h.Waiting), h.ID)
		emit("rebound_webhook_given_up", float64(h.Dead), h.ID)
	}
	return err
}

// metricsRoute serves the metrics on the vault's own port, to callers with a token.
func (s *Server) metricsRoute(api huma.API) {
	op := route("GET", "/metrics", "metrics", "Read the vault's metrics in the text format of Prometheus")
	op.Path = metricsPath
	add(api, op, func(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
		text, err := metrics.Text(ctx, s.MetricSource())
		return rawAnswer(http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", text), err
	})
}

// rawAnswer is an answer that is no JSON.
func rawAnswer(status int, kind string, body []byte) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", kind)
		ctx.SetStatus(status)
		_, _ = bytes.NewReader(body).WriteTo(ctx.BodyWriter()) // the caller may be gone
	}}
}
