package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"

	"rebound/internal/problem"
)

// etagOf is the strong validator of a body.
func etagOf(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`
}

// matches reports whether a list of validators, as in If-Match, names one.
// Weak validators never match: If-Match and our ETags are strong.
func matches(list, etag string) bool {
	for _, one := range strings.Split(list, ",") {
		if one = strings.TrimSpace(one); one == etag && etag != "" || one == "*" && etag != "" {
			return true
		}
	}
	return false
}

// conditional answers 304 to a GET of what the caller has already, and does a
// PUT, PATCH or DELETE only if the object still is what the caller has seen.
func (s *Server) conditional(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	switch r.Method {
	case http.MethodGet:
		h := &held{ResponseWriter: w}
		next(h, r)
		if h.status == http.StatusOK && !h.through {
			etag := etagOf(h.body.Bytes())
			h.Header().Set("ETag", etag)
			if matches(r.Header.Get("If-None-Match"), etag) {
				h.Header().Del("Content-Type")
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		h.release()
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		unlock := s.paths.lock(r.URL.Path)
		defer unlock()
		if err := s.precondition(r); err != nil {
			writeProblem(w, err)
			return
		}
		next(w, r)
	default:
		next(w, r)
	}
}

// precondition reads the object as the caller would, and compares.
func (s *Server) precondition(r *http.Request) error {
	want, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	if want == "" && none == "" || requestOf(r.Context()).refused != nil {
		return nil // the guard refuses it
	}
	inner := *requestOf(r.Context())
	get := r.Clone(context.WithValue(r.Context(), requestKey{}, &inner))
	get.Method, get.Body, get.ContentLength, get.URL.RawQuery = http.MethodGet, http.NoBody, 0, ""
	got := &held{ResponseWriter: nowhere{}}
	s.mux.ServeHTTP(got, get)
	etag := ""
	switch got.status {
	case http.StatusOK:
		etag = etagOf(got.body.Bytes())
	case http.StatusNotFound, http.StatusMethodNotAllowed:
	default:
		return nil // the same will refuse the change
	}
	switch {
	case want != "" && etag == "":
		return problem.New(problem.PreconditionFailed, "there is nothing at %s", r.URL.Path)
	case want != "" && !matches(want, etag):
		return problem.New(problem.PreconditionFailed, "%s is %s now", r.URL.Path, etag)
	case none != "" && matches(none, etag):
		return problem.New(problem.PreconditionFailed, "%s is there already, as %s", r.URL.Path, etag)
	}
	return nil
}

// keyLocks are mutexes by name, so that nothing changes between the look at an
// object and its change.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int
}

func (k *keyLocks) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyLock{}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() { k.release(key, l) }
}

// try is lock, but gives up when the key is held.
func (k *keyLocks) try(key string) (unlock func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	if k.held[key] != nil {
		return nil, false
	}
	l := &keyLock{users: 1}
	l.Lock()
	k.held[key] = l
	return func() { k.release(key, l) }, true
}

func (k *keyLocks) release(key string, l *keyLock) {
	l.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, key)
	}
}
