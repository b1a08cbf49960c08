package portal

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"rebound/internal/vault/rest"
)

const (
	// inProcess is the host name in the addresses of requests that do not
	// leave the process.
	inProcess = "vault.invalid"
	// portalAgent begins the User-Agent of requests on somebody's behalf.
	portalAgent = "rebound-portal "
)

// transport hands a client's requests to the API within the process, as if the
// browser had sent them: with its address, its origin, its session.
type transport struct {
	api http.Handler
	of  *http.Request
	// csrf is the session's token.
	csrf string
	// bare requests carry no session.
	bare bool
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(out *http.Request) (*http.Response, error) {
	r := out.Clone(out.Context())
	r.Host, r.RemoteAddr, r.TLS, r.RequestURI = t.of.Host, t.of.RemoteAddr, t.of.TLS, out.URL.RequestURI()
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	if r.Body == nil {
		r.Body = http.NoBody
	}
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Accept-Language"} {
		if v := t.of.Header.Get(name); v != "" {
			r.Header.Set(name, v)
		}
	}
	if !t.bare {
		if c, err := t.of.Cookie(rest.SessionCookie); err == nil {
			r.AddCookie(c)
		}
		if t.csrf != "" {
			r.Header.Set(rest.CSRFHeader, t.csrf)
		}
	}
	if strings.HasSuffix(r.URL.Path, "/stream") {
		return t.stream(r)
	}
	w := &answer{head: http.Header{}}
	t.api.ServeHTTP(w, r)
	return w.response(r), nil
}

// answer is a response in memory.
type answer struct {
	head   http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.head }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

func (a *answer) response(r *http.Request) *http.Response {
	a.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1,
		Header: a.head, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()), Request: r,
	}
}

// stream answers while the API still writes.
func (t *transport) stream(r *http.Request) (*http.Response, error) {
	here, there := net.Pipe()
	w := &flowing{answer: answer{head: http.Header{}}, to: there, buffer: bufio.NewWriter(there), began: make(chan struct{})}
	go func() {
		defer there.Close()
		t.api.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		w.buffer.Flush() //nolint:errcheck // the reader is gone then
	}()
	select {
	case <-w.began:
	case <-r.Context().Done():
		here.Close()
		return nil, r.Context().Err()
	}
	resp := w.response(r)
	resp.Body, resp.ContentLength = here, -1
	return resp, nil
}

// flowing is a response that is read while it is written.
type flowing struct {
	answer
	to     net.Conn
	buffer *bufio.Writer
	began  chan struct{}
}

// WriteHeader implements http.ResponseWriter.
func (f *flowing) WriteHeader(status int) {
	if f.status == 0 {
		f.status = status
		close(f.began)
	}
}

// Write implements http.ResponseWriter.
func (f *flowing) Write(b []byte) (int, error) {
	f.WriteHeader(http.StatusOK)
	return f.buffer.Write(b)
}

// FlushError is what http.ResponseController calls.
func (f *flowing) FlushError() error {
	f.WriteHeader(http.StatusOK)
	return f.buffer.Flush()
}

// SetWriteDeadline is what http.ResponseController calls.
func (f *flowing) SetWriteDeadline(t time.Time) error { return f.to.SetWriteDeadline(t) }
