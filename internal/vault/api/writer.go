package api

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"strings"
)

func equalSecrets(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// recorder remembers the status of an answer, and the first bytes of those
// that the audit log reads: problems, and what a change made.
type recorder struct {
	http.ResponseWriter
	status int
	head   bytes.Buffer
}

// headBytes is how much of an answer a recorder remembers.
const headBytes = 16 << 10

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if room := headBytes - r.head.Len(); room > 0 {
		r.head.Write(b[:min(room, len(b))])
	}
	return r.ResponseWriter.Write(b)
}

// said is what the audit log takes from an answer's body.
type said struct {
	Code string `json:"code"`
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (r *recorder) said() said {
	var s said
	if strings.Contains(r.Header().Get("Content-Type"), "json") {
		json.Unmarshal(r.head.Bytes(), &s) //nolint:errcheck // a body that was cut off says nothing
	}
	return s
}

// held keeps an answer back until it is whole, when it is JSON; anything else
// (a stream) goes through.
type held struct {
	http.ResponseWriter
	status  int
	body    bytes.Buffer
	through bool
}

// Unwrap lets http.ResponseController reach the connection.
func (h *held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (h *held) WriteHeader(status int) {
	if h.status != 0 {
		return
	}
	h.status = status
	if ct := h.Header().Get("Content-Type"); ct != "" && !strings.Contains(ct, "json") {
		h.through = true
		h.ResponseWriter.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (h *held) Write(b []byte) (int, error) {
	if h.status == 0 {
		h.WriteHeader(http.StatusOK)
	}
	if h.through {
		return h.ResponseWriter.Write(b)
	}
	return h.body.Write(b)
}

// release sends what was kept back.
func (h *held) release() {
	if h.through {
		return
	}
	if h.status == 0 {
		h.status = http.StatusOK
	}
	h.ResponseWriter.WriteHeader(h.status)
	h.ResponseWriter.Write(h.body.Bytes()) //nolint:errcheck // the caller is gone then
}

// nowhere is below a held whose answer is for the vault itself.
type nowhere http.Header

// Header implements http.ResponseWriter.
func (n nowhere) Header() http.Header { return http.Header(n) }

// WriteHeader implements http.ResponseWriter.
func (nowhere) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
