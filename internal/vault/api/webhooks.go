package api

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// HookIn is a webhook in the path; huma reads embedded structs only when exported.
type HookIn struct {
	ID string `path:"id"`
}

func (s *Server) webhookRoutes(api huma.API) {
	add(api, route("GET", "/webhooks", "list-webhooks", "List the webhooks"), func(ctx context.Context, in *ListIn) (*listReply[rest.Webhook], error) {
		return pageRead(ctx, s, *in, (*store.Tx).Webhooks, func(w rest.Webhook) string { return w.ID }, order[rest.Webhook]{
			"id":      func(w rest.Webhook) any { return w.ID },
			"url":     func(w rest.Webhook) any { return w.URL },
			"created": func(w rest.Webhook) any { return w.Created },
			"waiting": func(w rest.Webhook) any { return w.Waiting },
			"dead":    func(w rest.Webhook) any { return w.Dead },
		})
	})
	add(api, route("GET", "/webhooks/{id}", "show-webhook", "Show a webhook"), func(ctx context.Context, in *HookIn) (*reply[rest.Webhook], error) {
		var out rest.Webhook
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Webhook(in.ID); return err })
		return &reply[rest.Webhook]{out}, unknownHook(err, in.ID)
	})
	create := route("POST", "/webhooks", "create-webhook", "Make a webhook; a secret that the vault makes is shown once")
	create.DefaultStatus = 201
	add(api, create, s.createWebhook)
	add(api, route("PATCH", "/webhooks/{id}", "update-webhook", "Change a webhook"), s.updateWebhook)
	add(api, route("DELETE", "/webhooks/{id}", "delete-webhook", "Delete a webhook with what waits for it"), func(ctx context.Context, in *HookIn) (*struct{}, error) {
		err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeleteWebhook(in.ID) })
		return nil, unknownHook(err, in.ID)
	})
	add(api, route("POST", "/webhooks/{id}/test", "test-webhook", "Send a test event now and say how it went"), s.testWebhook)
	add(api, route("GET", "/webhooks/{id}/deliveries", "list-deliveries", "List what waits for a webhook, or with dead what was given up"), func(ctx context.Context, in *struct {
		HookIn
		Dead  bool `query:"dead"`
		Limit int  `query:"limit" minimum:"0" maximum:"10000"`
	},
	) (*reply[rest.List[rest.Delivery]], error) {
		out := []rest.Delivery{}
		err := s.view(ctx, func(tx *store.Tx) error {
			if _, err := tx.Webhook(in.ID); err != nil {
				return unknownHook(err, in.ID)
			}
			rows, err := tx.Deliveries(in.ID, in.Dead, pageIn{Limit: in.Limit}.limit())
			for _, d := range rows {
				out = append(out, d.Delivery)
			}
			return err
		})
		return listOf(out), err
	})
	add(api, route("POST", "/webhooks/{id}/retry", "retry-webhook", "Try at once what waits, and again what was given up"), s.retryWebhook)
}

func unknownHook(err error, id string) error {
	return notFound(err, problem.UnknownWebhook, "there is no webhook %q", id)
}

func (s *Server) createWebhook(ctx context.Context, in *struct{ Body rest.PutWebhook }) (*reply[rest.WebhookSecret], error) {
	b := in.Body
	if err := dr.ValidName(b.ID); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	out := rest.WebhookSecret{Webhook: rest.Webhook{ID: b.ID, Enabled: true, Created: s.Now().UTC()}}
	if err := applyHook(&out.Webhook, b); err != nil {
		return nil, err
	}
	if out.URL == "" {
		return nil, problem.New(problem.InvalidRequest, "a webhook needs a url")
	}
	secret := b.Secret
	if secret == "" {
		secret = rand.Text()
		out.Secret = secret
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		err := tx.InsertWebhook(out.Webhook, secret)
		if errors.Is(err, store.ErrExists) {
			return problem.New(problem.NameTaken, "there is a webhook %q already", b.ID)
		}
		return err
	})
	return &reply[rest.WebhookSecret]{out}, err
}

func (s *Server) updateWebhook(ctx context.Context, in *struct {
	HookIn
	Body rest.PutWebhook
},
) (*reply[rest.Webhook], error) {
	if in.Body.ID != "" && in.Body.ID != in.ID {
		return nil, problem.New(problem.InvalidRequest, "a webhook cannot be renamed")
	}
	var out rest.Webhook
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		w, err := tx.Webhook(in.ID)
		if err != nil {
			return unknownHook(err, in.ID)
		}
		if err := applyHook(&w, in.Body); err != nil {
			return err
		}
		if err := tx.PutWebhook(w, in.Body.Secret); err != nil {
			return err
		}
		out, err = tx.Webhook(in.ID)
		return err
	})
	return &reply[rest.Webhook]{out}, err
}

// applyHook puts what a request names into a webhook.
func applyHook(w *rest.Webhook, b rest.PutWebhook) error {
	if b.URL != "" {
		u, err := url.Parse(b.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return problem.New(problem.InvalidRequest, "%q is no http or https URL", b.URL)
		}
		if u.User != nil {
			return problem.New(problem.InvalidRequest, "a webhook's URL is shown to readers: put no password into it")
		}
		w.URL = b.URL
	}
	if b.Filter != nil {
		w.Filter = *b.Filter
	}
	if b.Enabled != nil {
		w.Enabled = *b.Enabled
	}
	return nil
}

func (s *Server) testWebhook(ctx context.Context, in *HookIn) (*reply[rest.WebhookTest], error) {
	var w rest.Webhook
	var secret string
	err := s.view(ctx, func(tx *store.Tx) (err error) {
		if w, err = tx.Webhook(in.ID); err == nil {
			secret, err = tx.WebhookSecret(in.ID)
		}
		return unknownHook(err, in.ID)
	})
	if err != nil {
		return nil, err
	}
	now := s.Now()
	d := store.Delivery{Delivery: rest.Delivery{ID: uuid.NewString(), Webhook: w.ID, Created: now.UTC(), Event: rest.Event{
		Time: now.UTC(), Code: "WebhookTest", Severity: string(rest.SeverityInfo), Text: "a test of webhook " + w.ID + ", asked for by " + caller(ctx),
	}}}
	began := time.Now()
	status, err := s.Hooks.Try(ctx, w.URL, secret, d)
	out := rest.WebhookTest{Delivery: d.ID, Status: status, Seconds: time.Since(began).Seconds()}
	if err != nil {
		out.Error = err.Error()
	}
	return &reply[rest.WebhookTest]{out}, nil
}

func (s *Server) retryWebhook(ctx context.Context, in *HookIn) (*reply[rest.Webhook], error) {
	var out rest.Webhook
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Webhook(in.ID); err != nil {
			return unknownHook(err, in.ID)
		}
		if err := tx.RetryDeliveries(in.ID); err != nil {
			return err
		}
		var err error
		out, err = tx.Webhook(in.ID)
		return err
	})
	return &reply[rest.Webhook]{out}, err
}
