package api

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"rebound/internal/problem"
	"rebound/internal/vault/store"
)

const (
	// answerLife is how long an idempotency key is remembered.
	answerLife = 24 * time.Hour
	// maxKey is how long a key may be.
	maxKey = 255
	// maxClaimed is the longest body that a request with a key may have.
	maxClaimed = 4 << 20
)

// answer is what a caller was told.
type answer struct {
	Status int               `json:"status"`
	Header map[string]string `json:"header"`
	Body   []byte            `json:"body"`
}

// idempotent answers a request whose key was used before with what it was
// answered then: a caller who does not know whether a request arrived sends it
// again. Answers are kept when something was done; a refusal has changed
// nothing, so the same request may be tried again.
func (s *Server) idempotent(w http.ResponseWriter, r *http.Request) {
	rq := requestOf(r.Context())
	key := r.Header.Get(idempotencyHeader)
	if key == "" || r.Method == http.MethodGet || rq.refused != nil {
		s.mux.ServeHTTP(w, r)
		return
	}
	claim, err := s.claimOf(r, rq, key)
	if err != nil {
		writeProblem(w, err)
		return
	}
	unlock, free := s.claims.try(claim.Caller + " " + key)
	if !free {
		writeProblem(w, problem.New(problem.RequestInProgress, "the request with this key has not been answered yet"))
		return
	}
	defer unlock()
	done, err := s.answered(r.Context(), claim)
	switch {
	case err != nil:
		writeProblem(w, err)
	case done != nil:
		rq.replayed = true
		w.Header().Set(replayedHeader, "true")
		done.write(w)
	default:
		s.claimed(w, r, claim)
	}
}

// claimOf reads what is asked, and puts the body back.
func (s *Server) claimOf(r *http.Request, rq *request, key string) (store.Claim, error) {
	for _, c := range []byte(key) {
		if c < '!' || c > '~' {
			return store.Claim{}, problem.New(problem.InvalidRequest, "the idempotency key holds something else than visible ASCII characters")
		}
	}
	if len(key) > maxKey {
		return store.Claim{}, problem.New(problem.InvalidRequest, "the idempotency key is longer than %d characters", maxKey)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxClaimed+1))
	if err != nil {
		return store.Claim{}, problem.Wrap(err, problem.InvalidRequest, "the body broke off")
	}
	if len(body) > maxClaimed {
		return store.Claim{}, problem.New(problem.InvalidRequest, "the body is longer than %d bytes", maxClaimed)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n%s\n", r.Method, r.URL.RequestURI(), r.Header.Get("If-Match"))
	h.Write(body)
	return store.Claim{Caller: rq.who.Credential, Key: key, Sum: h.Sum(nil), At: s.Now()}, nil
}

// answered returns what a claim was answered before; nil when it is new.
func (s *Server) answered(ctx context.Context, c store.Claim) (*answer, error) {
	var a store.Answer
	err := s.view(ctx, func(tx *store.Tx) (err error) {
		a, err = tx.Answer(c.Caller, c.Key, c.At.Add(-answerLife))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(a.Sum, c.Sum) {
		return nil, problem.New(problem.IdempotencyKeyReused, "the key belongs to another method, address or body")
	}
	if a.Answer != nil {
		plain, err := unseal(callerOf(ctx).Seal, a.Answer)
		if err != nil {
			return nil, err
		}
		var out answer
		return &out, json.Unmarshal(plain, &out)
	}
	// The vault died after it had begun the job and before it could answer.
	job, err := s.Jobs.Job(ctx, a.Job)
	if err != nil {
		return nil, err
	}
	reply := accepted(job)
	body, err := json.Marshal(reply.Body)
	return &answer{Status: reply.Status, Header: map[string]string{"Content-Type": "application/json", "Location": reply.Location, "Retry-After": reply.RetryAfter}, Body: body}, err
}

func (a *answer) write(w http.ResponseWriter) {
	for k, v := range a.Header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.Status)
	w.Write(a.Body) //nolint:errcheck // the caller is gone then
}

// claimed does what is asked and keeps the answer before it is sent.
func (s *Server) claimed(w http.ResponseWriter, r *http.Request, c store.Claim) {
	h := &held{ResponseWriter: w}
	s.mux.ServeHTTP(h, r.WithContext(store.WithClaim(r.Context(), c)))
	if h.status/100 == 2 && !h.through && requestOf(r.Context()).operation != "create-session" {
		if err := s.keep(r.Context(), c, h); err != nil {
			s.Log.Error("keep an answer", "error", err)
		}
	}
	h.release()
}

func (s *Server) keep(ctx context.Context, c store.Claim, h *held) error {
	a := answer{Status: h.status, Header: map[string]string{}, Body: h.body.Bytes()}
	for _, name := range []string{"Content-Type", "Location", "Retry-After"} {
		if v := h.Header().Get(name); v != "" {
			a.Header[name] = v
		}
	}
	plain, err := json.Marshal(a)
	if err != nil {
		return err
	}
	sealed, err := seal(callerOf(ctx).Seal, plain)
	if err != nil {
		return err
	}
	return s.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if err := tx.PruneAnswers(c.At.Add(-answerLife)); err != nil {
			return err
		}
		return tx.PutAnswer(c, sealed)
	})
}

// seal encrypts an answer under what only the caller's secret yields: answers
// may hold new secrets, and the database keeps none.
func seal(key [32]byte, plain []byte) ([]byte, error) {
	gcm, err := gcmOf(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce) //nolint:errcheck // never fails (crypto/rand)
	return gcm.Seal(nonce, nonce, plain, nil), nil
}

func unseal(key [32]byte, sealed []byte) ([]byte, error) {
	gcm, err := gcmOf(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < gcm.NonceSize() {
		return nil, errors.New("open a kept answer: too short")
	}
	plain, err := gcm.Open(nil, sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():], nil)
	if err != nil {
		return nil, fmt.Errorf("open a kept answer: %w", err)
	}
	return plain, nil
}

func gcmOf(key [32]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("seal an answer: %w", err)
	}
	return cipher.NewGCM(block)
}
