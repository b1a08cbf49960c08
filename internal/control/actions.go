package control

import (
	"context"
	"time"
)

// ActionCommands run the actions of recovery plans on the gateway's host. Both
// are done once for an Origin, like every command; when the gateway dies in the
// middle, the repetition is answered with ActionInterrupted, because nobody
// knows how far the action came.
type ActionCommands interface {
	// RunScript runs a script in a process group of its own, which is
	// killed at the time limit or when the gateway stops. A script that
	// ends with a code other than 0 is a result and no error.
	RunScript(ctx context.Context, o Origin, r ScriptRequest) (ScriptResult, error)
	// CallHTTP sends an HTTP request, with its retries. An answer that was
	// not expected is a result and no error.
	CallHTTP(ctx context.Context, o Origin, r CallRequest) (CallResult, error)
}

// OutputLimit is how many bytes of a script's stdout, of its stderr, and of an
// HTTP answer are kept: the first and the last half of it.
const OutputLimit = 64 << 10

// ScriptRequest is a script: its text, or the path of a file on the gateway's
// host. A path that is not absolute is below the gateway's folder of scripts.
type ScriptRequest struct {
	Text string            `json:"text,omitempty"`
	Path string            `json:"path,omitempty"`
	Args []string          `json:"args,omitempty"`
	Env  map[string]string `json:"env,omitempty"`
	// Timeout is needed.
	Timeout time.Duration `json:"timeout"`
}

// ScriptResult is how a script ended.
type ScriptResult struct {
	// ExitCode is -1 when a signal ended it.
	ExitCode int    `json:"exitCode"`
	Signal   string `json:"signal,omitempty"`
	TimedOut bool   `json:"timedOut,omitempty"`
	// Stdout and Stderr hold at most OutputLimit bytes each; the counts are
	// of all that was written.
	Stdout      string    `json:"stdout"`
	Stderr      string    `json:"stderr"`
	StdoutBytes int64     `json:"stdoutBytes"`
	StderrBytes int64     `json:"stderrBytes"`
	Started     time.Time `json:"started"`
	Ended       time.Time `json:"ended"`
}

// CallRequest is an HTTP request, its templates filled in.
type CallRequest struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
	// Expect lists the statuses that mean success; empty means 200 to 299.
	Expect  []int `json:"expect,omitempty"`
	Retries int   `json:"retries,omitempty"`
	// Timeout of each attempt; needed.
	Timeout time.Duration `json:"timeout"`
}

// CallResult is the last answer.
type CallResult struct {
	// Status is 0 when nobody answered; Error says why then.
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
	// Expected: the status is one of those that mean success.
	Expected  bool      `json:"expected"`
	Body      string    `json:"body"`
	BodyBytes int64     `json:"bodyBytes"`
	Attempts  int       `json:"attempts"`
	Started   time.Time `json:"started"`
	Ended     time.Time `json:"ended"`
}
