package portal

import (
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// settingRoutes registers the vault's settings: the limits of conditions, and
// the webhooks that are told of events.
func (p *Portal) settingRoutes() {
	p.page("GET /settings", func(rq *Request) error { return rq.settingsPage(nil, nil) })
	p.page("POST /settings", p.saveSettings)
	p.page("POST /webhooks", p.createWebhook)
	p.page("POST /webhooks/{id}/{action}", p.changeWebhook)
}

func settingNumbers(s *rest.HealthSettings) []numberField {
	return []numberField{
		{Name: "test", Label: "Test failover", Unit: "days that the last one may be old; 0: never overdue", of: &s.TestFailoverDays},
		{Name: "verify", Label: "Verification", Unit: "days that the last one may be old; 0: never overdue", of: &s.VerifyDays},
		{Name: "backup", Label: "Backup of the vault", Unit: "days that the last one may be old; 0: never overdue", of: &s.BackupDays},
		{Name: "commit", Label: "Commit", Unit: "hours that a failover may wait for it; 0: for ever", of: &s.CommitHours},
		{Name: "volumeWarning", Label: "Free room, warning below", Unit: "percent of a volume", of: &s.VolumeWarning},
		{Name: "volumeCritical", Label: "Free room, critical below", Unit: "percent of a volume", of: &s.VolumeCritical},
		{Name: "heartbeatWarning", Label: "Silence, warning after", Unit: "seconds without a heartbeat", of: &s.HeartbeatWarning},
		{Name: "heartbeatCritical", Label: "Silence, critical after", Unit: "seconds without a heartbeat", of: &s.HeartbeatCritical},
		{Name: "stallWarning", Label: "Synchronisation stands still, warning after", Unit: "seconds", of: &s.StallWarning},
		{Name: "stallCritical", Label: "Synchronisation stands still, critical after", Unit: "seconds", of: &s.StallCritical},
	}
}

// settingsPage shows the settings and, once, the secret of a new webhook.
func (rq *Request) settingsPage(failed *problem.Problem, made *rest.WebhookSecret) error {
	limits, err := rq.API.HealthSettings(rq.Context())
	if err != nil {
		return err
	}
	hooks, err := rq.API.Webhooks(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("settings", Page{
		Title: "Settings", Nav: "/settings", Problem: failed,
		Data: map[string]any{"Numbers": rq.filled(settingNumbers(&limits)), "Webhooks": hooks, "Made": made, "Get": rq.PostForm.Get, "Saved": rq.URL.Query().Get("saved") != ""},
	})
}

func (p *Portal) saveSettings(rq *Request) error {
	var limits rest.HealthSettings
	err := rq.take(settingNumbers(&limits))
	if err == nil {
		_, err = rq.API.PutHealthSettings(rq.Context(), limits)
	}
	if err != nil {
		return again(err, func(failed *problem.Problem) error { return rq.settingsPage(failed, nil) })
	}
	return rq.See("/settings?saved=1")
}

func (p *Portal) createWebhook(rq *Request) error {
	made, err := rq.API.CreateWebhook(rq.Context(), rest.PutWebhook{
		ID: rq.Field("id"), URL: rq.Field("url"), Filter: &rest.WebhookFilter{MinSeverity: rest.Severity(rq.Field("severity"))},
	})
	if err != nil {
		return again(err, func(failed *problem.Problem) error { return rq.settingsPage(failed, nil) })
	}
	return rq.settingsPage(nil, &made) // no redirect: the secret is shown once
}

func (p *Portal) changeWebhook(rq *Request) error {
	id := rq.PathValue("id")
	fail := func(failed *problem.Problem) error { return rq.settingsPage(failed, nil) }
	var err error
	switch action := rq.PathValue("action"); action {
	case "delete":
		err = rq.API.DeleteWebhook(rq.Context(), id)
	case "retry":
		_, err = rq.API.RetryWebhook(rq.Context(), id)
	case "test":
		var how rest.WebhookTest
		if how, err = rq.API.TestWebhook(rq.Context(), id); err == nil && how.Error != "" {
			err = problem.New(problem.InvalidRequest, "the receiver of webhook %s did not take the test: %s", id, how.Error)
		}
	default:
		err = problem.New(problem.InvalidRequest, "a webhook is not to be %q", action)
	}
	if err != nil {
		return again(err, fail)
	}
	return rq.See("/settings")
}
