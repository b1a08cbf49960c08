package control

import (
	"context"
	"encoding/json"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// The paths and the upgrade token that vault and gateway agree on. The first
// three are served by the vault, the last by the gateway inside the reversed
// connection.
const (
	ConnectPath   = "/control/v1/connect"
	ReportPath    = "/control/v1/report"
	EnrollPath    = "/control/v1/enroll"
	RenewPath     = "/control/v1/renew"
	commandPrefix = "/v1/command/"

	upgradeToken = "rebound-control/1"
)

// maxWait is how long one request for a command waits for its end before it
// is answered "running". The vault then asks again with the same Origin.
const maxWait = 20 * time.Second

// maxBody bounds every body of this protocol, in bytes: definitions carry
// NVRAM (up to a few hundred KiB a machine), lists carry points.
const maxBody = 64 << 20

// request is the envelope of POST /v1/command/{name}.
type request struct {
	Origin *Origin         `json:"origin,omitempty"`
	Args   json.RawMessage `json:"args"`
	// WaitMillis bounds how long the gateway holds the request, <= 20000.
	WaitMillis int64 `json:"waitMillis"`
}

// reply is the answer; exactly one of Done, Problem, Running is set.
type reply struct {
	Done     bool             `json:"done,omitempty"`
	Result   json.RawMessage  `json:"result,omitempty"`
	Problem  *problem.Problem `json:"problem,omitempty"`
	Running  bool             `json:"running,omitempty"`
	Progress Progress         `json:"progress,omitzero"`
}

// EnrollRequest asks the vault for a certificate. Passphrase was shown once
// when the gateway (or agent) was announced to the vault and works once;
// CSR is PEM.
type EnrollRequest struct {
	// Role is "gateway" or "agent".
	Role       string `json:"role"`
	Name       string `json:"name"`
	Passphrase string `json:"passphrase"`
	CSR        string `json:"csr"`
}

// EnrollResponse carries the certificate and the vault's CA, both PEM.
type EnrollResponse struct {
	Certificate string    `json:"certificate"`
	CA          string    `json:"ca"`
	Vault       string    `json:"vault"`
	Site        dr.SiteID `json:"site,omitempty"`
}

type progressKey struct{}

// WithProgress returns a context whose commands tell f how far they are. f is
// called from one goroutine at a time and must not block.
func WithProgress(ctx context.Context, f func(Progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

// ReportProgress tells whoever waits for the command of ctx how far it is. An
// implementation of Commands calls it as often as it likes.
func ReportProgress(ctx context.Context, p Progress) {
	if f, ok := ctx.Value(progressKey{}).(func(Progress)); ok {
		f(p)
	}
}
