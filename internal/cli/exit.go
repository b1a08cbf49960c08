package cli

import (
	"errors"

	"rebound/internal/problem"
)

// The exit codes, as "rebound help exit-codes" prints them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitNotFound    = 4
	exitNotAllowed  = 5
	exitWaiting     = 6
	exitUnreachable = 7
)

const exitCodesHelp = `Exit codes:
  0  it worked
  1  the job failed, or an error without a better code
  2  the command line or the request is not valid
  3  refused by the present state, a limit, or lack of room
  4  there is no such thing
  5  not allowed, or not logged in
  6  the job waits for a person
  7  the vault (or what it needs) cannot be reached
`

// usageError marks a command line that does not make sense.
type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

// jobError is a job that ended without success, or that waits; err is the
// job's own problem, if it has one.
type jobError struct {
	code int
	text string
	err  error
}

func (j jobError) Error() string { return j.text }
func (j jobError) Unwrap() error { return j.err }

// exitCode maps an error to the program's exit code.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if j, ok := errors.AsType[jobError](err); ok {
		return j.code
	}
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		return exitFailed
	}
	switch p.Kind {
	case problem.Invalid:
		return exitUsage
	case problem.NotFound:
		return exitNotFound
	case problem.NotAllowed:
		return exitNotAllowed
	case problem.Conflict, problem.Exhausted:
		return exitRefused
	case problem.Unavailable:
		return exitUnreachable
	default:
		return exitFailed
	}
}
