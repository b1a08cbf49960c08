package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// receiver is a real web server that people would run; answer may hang or fail.
type receiver struct {
	mu     sync.Mutex
	got    []rest.WebhookBody
	heads  []http.Header
	bodies []string
	answer func(w http.ResponseWriter, n int)
	*httptest.Server
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(r)
	t.Cleanup(func() { r.CloseClientConnections(); r.Close() })
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	var b rest.WebhookBody
	_ = json.Unmarshal(body, &b)
	r.mu.Lock()
	r.got, r.heads, r.bodies = append(r.got, b), append(r.heads, req.Header), append(r.bodies, string(body))
	n, answer := len(r.got), r.answer
	r.mu.Unlock()
	if answer != nil {
		answer(w, n)
	}
}

// texts returns the events that arrived, repetitions left out.
func (r *receiver) texts() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, b := range r.got {
		if !seen[b.Delivery] {
			out = append(out, b.Event.Text)
		}
		seen[b.Delivery] = true
	}
	return out
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func update(t *testing.T, st *store.Store, f func(*store.Tx) error) {
	t.Helper()
	if err := st.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func event(text string) rest.Event {
	return rest.Event{Time: time.Now().UTC(), Code: "Something", Severity: "warning", Group: "g", Text: text}
}

func emit(t *testing.T, st *store.Store, texts ...string) {
	t.Helper()
	for _, s := range texts {
		update(t, st, func(tx *store.Tx) error { return tx.InsertEvent(event(s)) })
	}
}

func hook(t *testing.T, st *store.Store, id, url string, f rest.WebhookFilter) {
	t.Helper()
	update(t, st, func(tx *store.Tx) error {
		return tx.InsertWebhook(rest.Webhook{ID: id, URL: url, Enabled: true, Filter: f}, "secret-of-"+id)
	})
}

// serve runs a sender; the result stops it.
func serve(t *testing.T, st *store.Store, change func(*Config)) (stop func()) {
	t.Helper()
	c := Config{Store: st, Vault: "v", Log: slog.New(slog.DiscardHandler), Now: time.Now, FirstWait: 5 * time.Millisecond, LongestWait: 20 * time.Millisecond}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); New(c).Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func waiting(t *testing.T, st *store.Store, id string) (w rest.Webhook) {
	t.Helper()
	update(t, st, func(tx *store.Tx) (err error) { w, err = tx.Webhook(id); return err })
	return w
}

func TestSignedAndComplete(t *testing.T) {
	st, r := openStore(t, filepath.Join(t.TempDir(), "v.db")), newReceiver(t)
	hook(t, st, "a", r.URL, rest.WebhookFilter{})
	emit(t, st, "one")
	serve(t, st, nil)
	eventually(t, "delivery", func() bool { return r.count() == 1 && waiting(t, st, "a").Waiting == 0 })
	b, h := r.got[0], r.heads[0]
	if b.Vault != "v" || b.Event.Text != "one" || b.Event.Seq == 0 || b.Delivery == "" || h.Get(rest.HeaderDelivery) != b.Delivery || h.Get(rest.HeaderEvent) != "Something" {
		t.Errorf("body %+v, headers %v", b, h)
	}
	stamp, sum, ok := strings.Cut(h.Get(rest.HeaderSignature), ",v1=")
	mac := hmac.New(sha256.New, []byte("secret-of-a"))
	fmt.Fprintf(mac, "%s.%s", strings.TrimPrefix(stamp, "t="), r.bodies[0])
	if want := hex.EncodeToString(mac.Sum(nil)); !ok || sum != want {
		t.Errorf("signature %q, want %s", h.Get(rest.HeaderSignature), want)
	}
	if waiting(t, st, "a").LastDelivered.IsZero() {
		t.Error("the delivery was not noted")
	}
}

// TestFailuresKeepOrder: the receiver answers 500 again and again; everything arrives,
// in order, with the same id at every try.
func TestFailuresKeepOrder(t *testing.T) {
	st, r := openStore(t, filepath.Join(t.TempDir(), "v.db")), newReceiver(t)
	r.answer = func(w http.ResponseWriter, n int) {
		if n%3 != 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	hook(t, st, "a", r.URL, rest.WebhookFilter{})
	want := []string{"1", "2", "3", "4", "5"}
	emit(t, st, want...)
	serve(t, st, nil)
	eventually(t, "all deliveries", func() bool { return waiting(t, st, "a").Waiting == 0 })
	if got := r.texts(); !slices.Equal(got, want) {
		t.Errorf("arrived %v, want %v", got, want)
	}
	if n := r.count(); n != 15 {
		t.Errorf("%d tries, want 3 for each", n)
	}
}

// TestHangingReceiverHoldsUpNoOther: one receiver never answers, another one gets its
// events meanwhile; when the first one is well again, it gets its own.
func TestHangingReceiverHoldsUpNoOther(t *testing.T) {
	st, slow, quick := openStore(t, filepath.Join(t.TempDir(), "v.db")), newReceiver(t), newReceiver(t)
	well := make(chan struct{})
	slow.answer = func(http.ResponseWriter, int) { <-well }
	hook(t, st, "slow", slow.URL, rest.WebhookFilter{})
	hook(t, st, "quick", quick.URL, rest.WebhookFilter{})
	serve(t, st, func(c *Config) { c.Timeout = 100 * time.Millisecond })
	emit(t, st, "1", "2")
	eventually(t, "the quick one", func() bool { return len(quick.texts()) == 2 && slow.count() >= 2 })
	if w := waiting(t, st, "slow"); w.Waiting != 2 || w.FailingSince.IsZero() || w.LastError == "" {
		t.Errorf("the slow one: %+v", w)
	}
	close(well)
	eventually(t, "the slow one", func() bool { return waiting(t, st, "slow").Waiting == 0 })
}

// TestRestartLosesNothing: nobody listens, the vault's process ends, another one
// begins on the same store, then the receiver comes.
func TestRestartLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.db")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	st := openStore(t, path)
	hook(t, st, "a", "http://"+addr, rest.WebhookFilter{})
	emit(t, st, "1", "2")
	stop := serve(t, st, nil)
	eventually(t, "a refusal", func() bool { return waiting(t, st, "a").LastError != "" })
	stop()
	st.Close()
	st = openStore(t, path)
	emit(t, st, "3")
	r := &receiver{}
	if ln, err = net.Listen("tcp", addr); err != nil {
		t.Skipf("the port was taken by somebody else: %v", err)
	}
	srv := &http.Server{Handler: r, ReadHeaderTimeout: time.Second}
	go srv.Serve(ln) //nolint:errcheck // until Close
	t.Cleanup(func() { srv.Close() })
	serve(t, st, nil)
	eventually(t, "all of it", func() bool { return waiting(t, st, "a").Waiting == 0 })
	if got := r.texts(); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("arrived %v", got)
	}
}

// TestGivenUpAndTriedAgain: after DeadAfter the first one is given up and the next
// ones go on; a retry sends it.
func TestGivenUpAndTriedAgain(t *testing.T) {
	st, r := openStore(t, filepath.Join(t.TempDir(), "v.db")), newReceiver(t)
	bad := "poison"
	r.answer = func(w http.ResponseWriter, n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.got[n-1].Event.Text == bad {
			w.WriteHeader(http.StatusBadGateway)
		}
	}
	hook(t, st, "a", r.URL, rest.WebhookFilter{})
	emit(t, st, "poison", "next")
	serve(t, st, func(c *Config) { c.DeadAfter = 50 * time.Millisecond })
	eventually(t, "the next one", func() bool { return slices.Contains(r.texts(), "next") && waiting(t, st, "a").Waiting == 0 })
	if w := waiting(t, st, "a"); w.Dead != 1 {
		t.Fatalf("%+v", w)
	}
	r.mu.Lock()
	bad = ""
	r.mu.Unlock()
	n := r.count()
	update(t, st, func(tx *store.Tx) error { return tx.RetryDeliveries("a") })
	eventually(t, "the retry", func() bool { w := waiting(t, st, "a"); return w.Dead == 0 && w.Waiting == 0 })
	if r.count() != n+1 || r.got[n].Event.Text != "poison" || r.got[n].Delivery != r.got[0].Delivery {
		t.Errorf("retried %+v", r.got[n:])
	}
}

func TestFilters(t *testing.T) {
	st := openStore(t, filepath.Join(t.TempDir(), "v.db"))
	c := rest.Condition{Code: "RPOExceeded", Severity: "critical", Worst: "critical", Object: rest.Object{Kind: "group", ID: "g", Group: "g"}, Since: time.Now()}
	update(t, st, func(tx *store.Tx) error { return tx.InsertCondition("k", &c) })
	for id, f := range map[string]rest.WebhookFilter{
		"all": {}, "critical": {MinSeverity: "critical"}, "code": {Codes: []string{"RPO*"}}, "other": {Codes: []string{"X"}},
		"object": {Objects: []string{"g"}}, "elsewhere": {Objects: []string{"h"}}, "both": {Codes: []string{"RPOExceeded"}, Objects: []string{"h", "g"}, MinSeverity: "warning"},
	} {
		hook(t, st, id, "http://127.0.0.1:1", f)
	}
	began := rest.Event{Time: time.Now(), Code: "RPOExceeded", Severity: "critical", Group: "g", Condition: c.ID}
	ended := rest.Event{Time: time.Now(), Code: "RPOExceededCleared", Severity: "info", Group: "g", Condition: c.ID, Ended: true}
	muted := began
	muted.Muted = true
	for _, e := range []rest.Event{began, ended, muted, {Time: time.Now(), Code: "Other", Severity: "info"}} {
		update(t, st, func(tx *store.Tx) error { return tx.InsertEvent(e) })
	}
	for id, want := range map[string]int{"all": 3, "critical": 2, "code": 2, "other": 0, "object": 2, "elsewhere": 0, "both": 2} {
		if got := waiting(t, st, id).Waiting; got != want {
			t.Errorf("%s: %d deliveries, want %d", id, got, want)
		}
	}
	update(t, st, func(tx *store.Tx) error {
		d, err := tx.NextDelivery("critical")
		if err == nil && (d.Condition == nil || d.Condition.Code != "RPOExceeded") {
			t.Errorf("a delivery without its condition: %+v", d)
		}
		return err
	})
}

func TestPausesGrow(t *testing.T) {
	s := New(Config{FirstWait: time.Second, LongestWait: 10 * time.Second})
	var got []time.Duration
	for i := 1; i <= 6; i++ {
		got = append(got, s.wait(i))
	}
	want := []time.Duration{1e9, 2e9, 4e9, 8e9, 10e9, 10e9}
	if !slices.Equal(got, want) {
		t.Errorf("pauses %v, want %v", got, want)
	}
}
