package runbook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"rebound/internal/control"
	"rebound/internal/problem"
)

// maxPause is the longest pause before a retry; the first is one second, each
// further one twice as long.
const maxPause = 30 * time.Second

// Call sends an HTTP request, again after a failure as often as the request
// says. A call that is repeatable, by its method or because retries are asked
// for, is sent again after the death of the process; any other is answered with
// ActionInterrupted then. All attempts carry the same Idempotency-Key.
func (r *Runner) Call(ctx context.Context, key string, req control.CallRequest) (control.CallResult, error) {
	var res control.CallResult
	if err := checkCall(req); err != nil {
		return res, err
	}
	a, done, err := r.begin(key, &res)
	if problem.HasCode(err, problem.ActionInterrupted) && repeatable(req) {
		if a, err = r.again(key); err != nil {
			return res, err
		}
	}
	if err != nil || done {
		return res, err
	}
	res.Started = r.cfg.Now().UTC()
	for pause := time.Second; ; pause = min(2*pause, maxPause) {
		res.Attempts++
		attempt(ctx, key, req, &res)
		if res.Expected || res.Attempts > req.Retries || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	res.Ended = r.cfg.Now().UTC()
	return res, r.end(ctx, a, res)
}

// again begins an action anew that was cut short.
func (r *Runner) again(key string) (*action, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &action{dir: r.folder(key), rec: record{Key: key, Begun: r.cfg.Now().UTC()}}
	r.running[key] = true
	return a, a.save()
}

func repeatable(req control.CallRequest) bool {
	return req.Retries > 0 || req.Method != http.MethodPost && req.Method != http.MethodPatch
}

func checkCall(req control.CallRequest) error {
	u, err := url.Parse(req.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return problem.New(problem.InvalidRequest, "%q is no http or https address", req.URL)
	case req.Timeout <= 0:
		return problem.New(problem.InvalidRequest, "the call has no time limit")
	}
	return nil
}

// attempt sends the request once and puts the answer into res.
func attempt(ctx context.Context, key string, req control.CallRequest, res *control.CallResult) {
	ctx, cancel := context.WithTimeout(ctx, req.Timeout)
	defer cancel()
	res.Status, res.Error, res.Body, res.BodyBytes, res.Expected = 0, "", "", 0, false
	hr, err := http.NewRequestWithContext(ctx, req.Method, req.URL, strings.NewReader(req.Body))
	if err != nil {
		res.Error = err.Error()
		return
	}
	hr.Header.Set("User-Agent", "rebound")
	hr.Header.Set("Idempotency-Key", strings.ReplaceAll(key, "\n", "/"))
	for k, v := range req.Headers {
		hr.Header.Set(k, v)
	}
	tr := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	resp, err := (&http.Client{Transport: tr}).Do(hr)
	if err != nil {
		res.Error = plain(err)
		return
	}
	defer resp.Body.Close()
	var body bounded
	_, err = io.Copy(&body, io.LimitReader(resp.Body, 64<<20))
	res.Body, res.BodyBytes = body.text()
	res.Status = resp.StatusCode
	if err != nil {
		res.Error = "the answer broke off: " + plain(err)
		return
	}
	res.Expected = slices.Contains(req.Expect, res.Status) || len(req.Expect) == 0 && res.Status/100 == 2
}

// plain is an error without the address, which may hold a secret.
func plain(err error) string {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		if ue.Timeout() {
			return "no answer within the time limit"
		}
		return ue.Err.Error()
	}
	return err.Error()
}
