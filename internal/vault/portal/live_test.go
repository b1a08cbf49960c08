package portal

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestPortalSilentStreamLives: over HTTP/2 the end of a write's deadline resets
// the stream, also when nothing is being written.
func TestPortalSilentStreamLives(t *testing.T) {
	const limit = 500 * time.Millisecond // far longer than a write takes, also on a busy machine
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &teller{w: w, rc: http.NewResponseController(w), limit: limit}
		if err := out.raw("first\n"); err != nil {
			t.Error(err)
		}
		select {
		case <-time.After(2 * limit):
		case <-r.Context().Done():
			t.Error("the stream was reset in its silence")
		}
		if err := out.raw("second\n"); err != nil {
			t.Error(err)
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{"first", "second"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("read %q, %v; want %q", lines.Text(), lines.Err(), want)
		}
	}
}
