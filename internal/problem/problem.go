// Package problem holds the errors that reach people. A Problem names what
// went wrong by a stable code, why that may be, and what to do next. Packages
// below the API return ordinary errors; where one must reach an operator it is
// a *Problem somewhere in its chain.
//
// Codes are registered in codes.go, one line each, so that docs/errors.md can
// be generated from them. Any package may import problem; it imports only the
// standard library.
package problem

import (
	"errors"
	"fmt"
)

// Kind is the small closed set of ways in which a request can fail; the API
// maps it to an HTTP status and the command line to an exit code.
type Kind string

// The kinds.
const (
	Invalid     Kind = "invalid"     // the request is malformed: 400, exit 2
	NotFound    Kind = "not-found"   // no such thing: 404, exit 4
	NotAllowed  Kind = "not-allowed" // the caller may not: 403, exit 5
	Conflict    Kind = "conflict"    // refused by the present state: 409, exit 3
	Unavailable Kind = "unavailable" // something needed is not reachable: 503, exit 7
	Exhausted   Kind = "exhausted"   // no room, over a limit: 507, exit 3
	Internal    Kind = "internal"    // a defect or damaged data: 500, exit 1
)

// Code is the stable name of a problem, such as "ItemNotFound".
type Code string

// Problem is an error for people (RFC 9457 once it leaves the API).
type Problem struct {
	Code   Code   `json:"code"`
	Kind   Kind   `json:"kind"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// PossibleCauses and RecommendedAction follow Azure Site Recovery's
	// error documents.
	PossibleCauses    []string `json:"possibleCauses,omitempty"`
	RecommendedAction string   `json:"recommendedAction,omitempty"`
	// Transient problems are worth retrying without a change.
	Transient bool  `json:"transient,omitempty"`
	Err       error `json:"-"`
}

// Error prints title, detail and the wrapped error.
func (p *Problem) Error() string {
	s := string(p.Code) + ": " + p.Title
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.Err != nil {
		s += ": " + p.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// New returns the registered problem of a code with a detail about this case.
// It panics on a code that is not registered: that is a defect.
func New(code Code, format string, args ...any) *Problem {
	def, ok := registry[code]
	if !ok {
		panic("problem: code not registered: " + string(code))
	}
	p := def
	p.Code = code
	p.Detail = fmt.Sprintf(format, args...)
	return &p
}

// Wrap is New with a cause that errors.Is and errors.As can find.
func Wrap(err error, code Code, format string, args ...any) *Problem {
	p := New(code, format, args...)
	p.Err = err
	return p
}

// From returns the Problem in err's chain, or an InternalError around err.
func From(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	return Wrap(err, InternalError, "%v", err)
}

// HasCode reports whether err's chain holds a Problem of that code.
func HasCode(err error, code Code) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && p.Code == code
}
