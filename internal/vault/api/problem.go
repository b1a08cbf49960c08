package api

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/problem"
	"rebound/internal/vault/store"
)

// document is a problem as RFC 9457 wants it.
type document struct {
	Type              string       `json:"type"`
	Status            int          `json:"status"`
	Code              problem.Code `json:"code"`
	Kind              problem.Kind `json:"kind"`
	Title             string       `json:"title"`
	Detail            string       `json:"detail,omitempty"`
	PossibleCauses    []string     `json:"possibleCauses,omitempty"`
	RecommendedAction string       `json:"recommendedAction,omitempty"`
	Transient         bool         `json:"transient,omitempty"`

	header http.Header
}

// GetHeaders implements huma.HeadersError.
func (d *document) GetHeaders() http.Header { return d.header }

var _ huma.StatusError = (*document)(nil)

// Error implements error.
func (d *document) Error() string { return string(d.Code) + ": " + d.Title + ": " + d.Detail }

// GetStatus implements huma.StatusError.
func (d *document) GetStatus() int { return d.Status }

// ContentType implements huma's content type filter.
func (d *document) ContentType(string) string { return "application/problem+json" }

// documentOf turns any error into what a caller sees.
func documentOf(err error) *document {
	if d, ok := errors.AsType[*document](err); ok {
		return d
	}
	p := problem.From(err)
	d := &document{
		Type: "about:blank", Status: p.HTTPStatus(), Code: p.Code, Kind: p.Kind, Title: p.Title, Detail: p.Explain(),
		PossibleCauses: p.PossibleCauses, RecommendedAction: p.RecommendedAction, Transient: p.Transient,
	}
	if later, ok := errors.AsType[retryLater](err); ok {
		d.header = http.Header{"Retry-After": {strconv.Itoa(int(math.Ceil(later.after.Seconds())))}}
	}
	return d
}

// useDocuments makes huma's own refusals (validation, unknown routes) problem
// documents too. huma has one constructor for the whole process.
var useDocuments = sync.OnceFunc(func() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		details := []string{msg}
		for _, e := range errs {
			if e != nil {
				details = append(details, e.Error())
			}
		}
		code := problem.InvalidRequest
		switch {
		case status == http.StatusUnauthorized:
			code = problem.NotAuthenticated
		case status >= 500:
			code = problem.InternalError
		}
		d := documentOf(problem.New(code, "%s", strings.Join(details, "; ")))
		if status >= 500 {
			d.Status = status
		}
		return d
	}
})

// notFound gives a missing row its code.
func notFound(err error, code problem.Code, format string, args ...any) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.New(code, format, args...)
	}
	return err
}

// writeProblem answers a request outside of huma.
func writeProblem(w http.ResponseWriter, err error) {
	d := documentOf(err)
	for name, values := range d.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(d.Status)
	json.NewEncoder(w).Encode(d) //nolint:errcheck // the caller is gone then
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the caller is gone then
}
