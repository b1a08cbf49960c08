package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
)

// recorder keeps requests and answers of the API as evidence.
type recorder struct {
	next http.RoundTripper
	mu   sync.Mutex
	file *os.File
}

func newRecorder(path string, next http.RoundTripper) (*recorder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("make API log: %w", err)
	}
	return &recorder{next: next, file: f}, nil
}

// RoundTrip records one exchange. What polls (the RPO, waits for jobs) has
// evidence of its own and is left out.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	polls := strings.HasSuffix(req.URL.Path, "/rpo") || req.URL.Query().Has("waitSeconds")
	var sent []byte
	if req.Body != nil && !polls {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	at := time.Now()
	resp, err := r.next.RoundTrip(req)
	if err != nil || polls {
		return resp, err
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(got))
	r.write(map[string]any{
		"time": at.UTC(), "seconds": time.Since(at).Seconds(), "method": req.Method, "url": req.URL.RequestURI(),
		"request": asJSON(sent), "status": resp.StatusCode, "answer": asJSON(got),
	})
	return resp, nil
}

// asJSON keeps JSON as it is and other text as a string; passphrases and
// tokens are taken out.
func asJSON(b []byte) any {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return string(b)
	}
	return redact(v)
}

func redact(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			if k == "passphrase" || k == "secret" {
				x[k] = "(left out)"
			} else {
				x[k] = redact(x[k])
			}
		}
	case []any:
		for i := range x {
			x[i] = redact(x[i])
		}
	}
	return v
}

func (r *recorder) write(line any) {
	b, err := json.Marshal(line)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.file.Write(append(b, '\n')) // evidence only; a full disk shows elsewhere
}

func (r *recorder) close() error { return r.file.Close() }

// rpoSample is one line of rpo.jsonl.
type rpoSample struct {
	Time    time.Time `json:"time"` // when the answer was there
	Seconds *float64  `json:"seconds"`
	Basis   string    `json:"basis,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// rpoPoller reads a group's RPO from the API every 100 ms.
type rpoPoller struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	last   rpoSample
	file   *os.File
}

const rpoEvery = 100 * time.Millisecond

func pollRPO(ctx context.Context, c *client.Client, group dr.GroupID, path string) (*rpoPoller, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("make RPO log: %w", err)
	}
	p := &rpoPoller{file: f}
	ctx, p.cancel = context.WithCancel(ctx)
	p.wg.Go(func() {
		tick := time.NewTicker(rpoEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				p.sample(ctx, c, group)
			}
		}
	})
	return p, nil
}

func (p *rpoPoller) sample(ctx context.Context, c *client.Client, group dr.GroupID) {
	rpo, err := c.GroupRPO(ctx, group)
	s := rpoSample{Time: time.Now().UTC(), Seconds: rpo.Seconds, Basis: rpo.Basis}
	if err != nil {
		s = rpoSample{Time: s.Time, Error: err.Error()}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Seconds != nil {
		p.last = s
	}
	if b, err := json.Marshal(s); err == nil {
		_, _ = p.file.Write(append(b, '\n'))
	}
}

// fresh waits for a sample that is younger than 200 ms and returns it.
func (p *rpoPoller) fresh(ctx context.Context) (rpoSample, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		s := p.last
		p.mu.Unlock()
		if s.Seconds != nil && time.Since(s.Time) < 50*time.Millisecond {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("wait for an RPO: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (p *rpoPoller) stop() error {
	p.cancel()
	p.wg.Wait()
	return p.file.Close()
}

// saveCommandLines copies the QEMU command lines of a datastore.
func saveCommandLines(datastore, evidence, label string) error {
	files, err := filepath.Glob(filepath.Join(datastore, "machines", "*", commandLineFile))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read command line: %w", err)
		}
		name := filepath.Base(filepath.Dir(f))
		if err := os.WriteFile(filepath.Join(evidence, fmt.Sprintf("qemu-%s-%s.txt", label, name)), b, 0o644); err != nil {
			return fmt.Errorf("save command line: %w", err)
		}
	}
	return nil
}
