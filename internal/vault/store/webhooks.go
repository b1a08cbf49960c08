package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"rebound/internal/vault/rest"
)

// Delivery is a row of the outbox: all that is sent, kept with the row.
type Delivery struct {
	rest.Delivery
	Condition *rest.Condition `json:"condition,omitempty"`
	// Failing is when the first try failed.
	Failing time.Time `json:"failing,omitzero"`
}

// InsertWebhook adds a webhook; ErrExists when the name is taken.
func (t *Tx) InsertWebhook(w rest.Webhook, secret string) error {
	doc, err := docOf(w)
	if err != nil {
		return err
	}
	return inserted(t.exec("INSERT INTO webhooks(id, secret, doc) VALUES(?, ?, ?) ON CONFLICT DO NOTHING", w.ID, []byte(secret), doc))
}

// PutWebhook replaces a webhook, and its secret when that is not empty.
func (t *Tx) PutWebhook(w rest.Webhook, secret string) error {
	doc, err := docOf(w)
	if err != nil {
		return err
	}
	return t.must1(t.exec("UPDATE webhooks SET doc = ?, secret = CASE WHEN ? = '' THEN secret ELSE ? END WHERE id = ?", doc, secret, []byte(secret), w.ID))
}

// DeleteWebhook removes a webhook with its deliveries.
func (t *Tx) DeleteWebhook(id string) error {
	return t.must1(t.exec("DELETE FROM webhooks WHERE id = ?", id))
}

// Webhook reads a webhook.
func (t *Tx) Webhook(id string) (rest.Webhook, error) {
	w, err := readDoc[rest.Webhook](t, "SELECT doc FROM webhooks WHERE id = ?", id)
	if err != nil {
		return w, err
	}
	return w, t.countDeliveries(&w)
}

// Webhooks lists webhooks by name.
func (t *Tx) Webhooks() ([]rest.Webhook, error) {
	list, err := readDocs[rest.Webhook](t, "SELECT doc FROM webhooks ORDER BY id")
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := t.countDeliveries(&list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// countDeliveries fills in what the outbox says of a webhook.
func (t *Tx) countDeliveries(w *rest.Webhook) error {
	err := t.tx.QueryRowContext(t.ctx, "SELECT count(*) FILTER (WHERE dead = 0), count(*) FILTER (WHERE dead = 1) FROM outbox WHERE hook = ?", w.ID).Scan(&w.Waiting, &w.Dead)
	if err != nil {
		return fmt.Errorf("count deliveries: %w", err)
	}
	next, err := t.NextDelivery(w.ID)
	if err == nil {
		w.FailingSince, w.NextTry = next.Failing, next.NextTry
		if next.Error != "" {
			w.LastError = next.Error
		}
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// WebhookSecret reads what a webhook's bodies are signed with.
func (t *Tx) WebhookSecret(id string) (string, error) {
	var b []byte
	err := t.tx.QueryRowContext(t.ctx, "SELECT secret FROM webhooks WHERE id = ?", id).Scan(&b)
	if err != nil {
		return "", fmt.Errorf("read secret of webhook: %w", err)
	}
	return string(b), nil
}

// NextDelivery reads the oldest delivery of a webhook that is not given up.
func (t *Tx) NextDelivery(hook string) (Delivery, error) {
	return readDoc[Delivery](t, "SELECT doc FROM outbox WHERE hook = ? AND dead = 0 ORDER BY seq LIMIT 1", hook)
}

// Deliveries lists what waits or, with dead, what was given up, oldest first.
func (t *Tx) Deliveries(hook string, dead bool, limit int) ([]Delivery, error) {
	return readDocs[Delivery](t, "SELECT doc FROM outbox WHERE hook = ? AND dead = ? ORDER BY seq LIMIT ?", hook, flag(dead), limit)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// PutDelivery replaces a delivery.
func (t *Tx) PutDelivery(d Delivery) error {
	doc, err := docOf(d)
	if err != nil {
		return err
	}
	return t.must1(t.exec("UPDATE outbox SET dead = ?, doc = ? WHERE id = ?", flag(d.Dead), doc, d.ID))
}

// DeleteDelivery removes a delivery that was made.
func (t *Tx) DeleteDelivery(id string) error {
	_, err := t.exec("DELETE FROM outbox WHERE id = ?", id)
	return err
}

// InsertDelivery puts an event into the outbox for one webhook.
func (t *Tx) InsertDelivery(hook string, e rest.Event, c *rest.Condition) (Delivery, error) {
	d := Delivery{Delivery: rest.Delivery{ID: uuid.NewString(), Webhook: hook, Event: e, Created: e.Time}, Condition: c}
	doc, err := docOf(d)
	if err != nil {
		return d, err
	}
	_, err = t.exec("INSERT INTO outbox(id, hook, dead, created, doc) VALUES(?, ?, 0, ?, ?)", d.ID, hook, stamp(d.Created), doc)
	t.queued = true
	return d, err
}

// queue puts an event into the outbox of every webhook that wants it.
func (t *Tx) queue(e rest.Event) error {
	if e.Muted {
		return nil
	}
	hooks, err := readDocs[rest.Webhook](t, "SELECT doc FROM webhooks ORDER BY id")
	if err != nil || len(hooks) == 0 {
		return err
	}
	var c *rest.Condition
	if e.Condition != 0 {
		cond, err := t.Condition(e.Condition)
		if err != nil {
			return err
		}
		c = &cond
	}
	for _, h := range hooks {
		if !h.Enabled || !wants(h.Filter, e, c) {
			continue
		}
		if _, err := t.InsertDelivery(h.ID, e, c); err != nil {
			return err
		}
	}
	return nil
}

// wants reports whether a filter lets an event through.
func wants(f rest.WebhookFilter, e rest.Event, c *rest.Condition) bool {
	severity, codes := rest.Severity(e.Severity), []string{e.Code}
	names := []string{string(e.Site), string(e.Gateway), string(e.Group), string(e.Machine), string(e.Job)}
	if c != nil {
		codes = append(codes, c.Code)
		names = append(names, c.Object.ID, string(c.Object.Item))
		if e.Ended { // as grave as it was
			severity = c.Worst
		}
	}
	order := []rest.Severity{"", rest.SeverityInfo, rest.SeverityWarning, rest.SeverityCritical}
	if slices.Index(order, severity) < slices.Index(order, f.MinSeverity) {
		return false
	}
	return matches(f.Codes, codes, wildcard) && matches(f.Objects, names, func(want, have string) bool { return want == have })
}

func matches(want, have []string, same func(want, have string) bool) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w string) bool {
		return slices.ContainsFunc(have, func(h string) bool { return same(w, h) })
	})
}

func wildcard(want, have string) bool {
	if prefix, ok := strings.CutSuffix(want, "*"); ok {
		return strings.HasPrefix(have, prefix)
	}
	return want == have
}

// Queued is told after every transaction that put something into the outbox.
func (s *Store) Queued() <-chan struct{} { return s.queued }

// RetryDeliveries makes all deliveries of a webhook due now, those that were given
// up too.
func (t *Tx) RetryDeliveries(hook string) error {
	t.queued = true
	_, err := t.exec("UPDATE outbox SET dead = 0, doc = CAST(json_remove(doc, '$.dead', '$.nextTry', '$.failing') AS BLOB) WHERE hook = ?", hook)
	return err
}
