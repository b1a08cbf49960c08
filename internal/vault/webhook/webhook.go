// Package webhook delivers the outbox of events to the addresses that people gave.
//
// It promises: each event that a webhook wants is delivered at least once, with the
// same delivery id at every try, also over restarts of the vault; the deliveries of
// one webhook are made in the order of their events; a webhook that hangs or
// fails holds up no other. A delivery that could not be made for DeadAfter is given
// up and kept, to be seen and sent again. The vault runs it.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// Config of a Sender.
type Config struct {
	Store *store.Store
	// Vault is the vault's id, which bodies name.
	Vault string
	Log   *slog.Logger
	Now   func() time.Time
	// FirstWait is the pause after the first failure, doubled with each further
	// one up to LongestWait; by default 1 s and 10 minutes.
	FirstWait, LongestWait time.Duration
	// Timeout bounds one try; 10 s by default.
	Timeout time.Duration
	// DeadAfter is for how long a delivery is tried; 3 days by default.
	DeadAfter time.Duration
	// Done is called after a try, for tests; may be nil.
	Done func(rest.Delivery, error)
}

// pollEvery is how often waiting deliveries are looked at.
const pollEvery = time.Second

// Sender delivers.
type Sender struct {
	cfg Config
	hc  *http.Client
	wg  sync.WaitGroup

	mu   sync.Mutex
	busy map[string]bool // webhooks with a worker
}

// New returns a sender.
func New(c Config) *Sender {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.FirstWait, time.Second)
	def(&c.LongestWait, 10*time.Minute)
	def(&c.Timeout, 10*time.Second)
	def(&c.DeadAfter, 72*time.Hour)
	hc := &http.Client{
		Timeout:       c.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Sender{cfg: c, hc: hc, busy: map[string]bool{}}
}

// Run delivers until ctx ends, then waits for the tries under way, which are cut
// short.
func (s *Sender) Run(ctx context.Context) {
	defer s.hc.CloseIdleConnections()
	defer s.wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.cfg.Store.Queued():
		case <-timer.C:
		}
		if err := s.spread(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("deliver webhooks", "error", err)
		}
		timer.Reset(min(pollEvery, s.cfg.FirstWait))
	}
}

// spread starts a worker for every webhook with something due.
func (s *Sender) spread(ctx context.Context) error {
	var hooks []rest.Webhook
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) (err error) { hooks, err = tx.Webhooks(); return err })
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	for _, h := range hooks {
		if !h.Enabled || h.Waiting == 0 || h.NextTry.After(now) || !s.take(h.ID) {
			continue
		}
		s.wg.Go(func() {
			defer s.release(h.ID)
			for {
				more, err := s.step(ctx, h.ID)
				if err != nil && ctx.Err() == nil {
					s.cfg.Log.Error("deliver webhook", "webhook", h.ID, "error", err)
				}
				if !more || err != nil {
					return
				}
			}
		})
	}
	return nil
}

func (s *Sender) take(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[id] {
		return false
	}
	s.busy[id] = true
	return true
}

func (s *Sender) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
}

// step makes one try of a webhook's oldest delivery; more says that the next one
// can follow at once.
func (s *Sender) step(ctx context.Context, id string) (more bool, err error) {
	var h rest.Webhook
	var d store.Delivery
	var secret string
	err = s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if h, err = tx.Webhook(id); err != nil {
			return err
		}
		if secret, err = tx.WebhookSecret(id); err != nil {
			return err
		}
		d, err = tx.NextDelivery(id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return false, nil // nothing waits, or the webhook is gone
	}
	if err != nil || !h.Enabled || d.NextTry.After(s.cfg.Now()) {
		return false, err
	}
	status, failure := s.send(ctx, h.URL, secret, d)
	if ctx.Err() != nil {
		return false, ctx.Err() // cut short by the vault's end: not a try
	}
	s.cfg.Log.Debug("webhook", "webhook", id, "delivery", d.ID, "status", status, "error", failure)
	err = s.book(ctx, h.ID, &d, failure)
	if s.cfg.Done != nil {
		s.cfg.Done(d.Delivery, failure)
	}
	return failure == nil || d.Dead, err
}

// book keeps the outcome of a try.
func (s *Sender) book(ctx context.Context, id string, d *store.Delivery, failure error) error {
	now := s.cfg.Now().UTC()
	return s.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if failure == nil {
			h, err := tx.Webhook(id)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			h.LastDelivered, h.LastError = now, ""
			if err := tx.PutWebhook(h, ""); err != nil {
				return err
			}
			return tx.DeleteDelivery(d.ID)
		}
		d.Tries++
		d.Error = failure.Error()
		if d.Failing.IsZero() {
			d.Failing = now
		}
		d.NextTry = now.Add(s.wait(d.Tries))
		d.Dead = now.Sub(d.Failing) >= s.cfg.DeadAfter
		err := tx.PutDelivery(*d)
		if errors.Is(err, store.ErrNotFound) {
			return nil // the webhook was deleted meanwhile
		}
		return err
	})
}

// wait is the pause after so many failures.
func (s *Sender) wait(tries int) time.Duration {
	w := s.cfg.FirstWait
	for i := 1; i < tries && w < s.cfg.LongestWait; i++ {
		w *= 2
	}
	return min(w, s.cfg.LongestWait)
}

// Try sends a delivery once, outside the outbox; the result is the status of the
// answer.
func (s *Sender) Try(ctx context.Context, url, secret string, d store.Delivery) (status int, err error) {
	return s.send(ctx, url, secret, d)
}

func (s *Sender) send(ctx context.Context, url, secret string, d store.Delivery) (status int, err error) {
	body, err := json.Marshal(rest.WebhookBody{Delivery: d.ID, Vault: s.cfg.Vault, Event: d.Event, Condition: d.Condition})
	if err != nil {
		return 0, fmt.Errorf("encode delivery: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "rebound")
	req.Header.Set(rest.HeaderDelivery, d.ID)
	req.Header.Set(rest.HeaderEvent, d.Event.Code)
	req.Header.Set(rest.HeaderSignature, Sign(secret, s.cfg.Now(), body))
	resp, err := s.hc.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection is used again
	if resp.StatusCode/100 != 2 {
		return resp.StatusCode, fmt.Errorf("the receiver answered %s", resp.Status)
	}
	return resp.StatusCode, nil
}

// Sign makes the signature header of a body; see rest.HeaderSignature.
func Sign(secret string, now time.Time, body []byte) string {
	stamp := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return "t=" + stamp + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
