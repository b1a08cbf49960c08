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
	"strings"
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

// Error prints code, title, detail and the wrapped error. A wrapped problem
// does not repeat what the outer one has said already.
func (p *Problem) Error() string {
	s := string(p.Code) + ": " + p.Title
	if d := p.Explain(); d != "" {
		s += ": " + d
	}
	return s
}

// Explain returns the detail with the words of the cause: all that is known
// besides code and title.
func (p *Problem) Explain() string {
	if p.Err == nil {
		return p.Detail
	}
	cause := Under(p.Code, p.Err)
	switch {
	case p.Detail == "" || strings.HasPrefix(cause, p.Detail):
		return cause
	case strings.Contains(p.Detail, cause):
		return p.Detail
	}
	return p.Detail + ": " + cause
}

// Under returns the words of an error that is told under the heading of a code:
// without codes, and without the title of that code.
func Under(code Code, err error) string {
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		return err.Error()
	}
	said := p.Explain()
	switch {
	case said == "":
		said = p.Title
	case p.Code != code:
		said = p.Title + ": " + said
	}
	return strings.Replace(err.Error(), p.Error(), said, 1)
}

// Text returns the words of an error for people, without its code.
func Text(err error) string { return Under("", err) }

// Plain returns a copy whose detail says what the cause says, and which wraps
// nothing: the form in which a problem is stored and sent.
func (p *Problem) Plain() *Problem {
	c := *p
	c.Detail, c.Err = p.Explain(), nil
	return &c
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// New returns the registered problem of a code with a detail about this case.
// It panics on a code that is not registered: that is a defect.
func New(code Code, format string, args ...any) *Problem {
	def, ok := registered(code)
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

// From returns the Problem in err's chain, with what was wrapped around it as
// part of its detail, or an InternalError around err.
func From(err error) *Problem {
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		return Wrap(err, InternalError, "%v", err)
	}
	if err == error(p) {
		return p
	}
	c := *p
	c.Detail, c.Err = Under(p.Code, err), err
	return &c
}

// HasCode reports whether err's chain holds a Problem of that code.
func HasCode(err error, code Code) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && p.Code == code
}
