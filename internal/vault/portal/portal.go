package portal

import (
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"rebound/internal/vault/rest"
)

// Config of a portal; API is needed.
type Config struct {
	// API answers the vault's REST API, and whatever else is no page.
	API http.Handler
	Log *slog.Logger
	// Now is the vault's clock, by default time.Now.
	Now func() time.Time
	// Version of the vault, for the foot of each page.
	Version string
}

// Portal answers requests for pages and hands all others to the API. It is
// safe for use by several goroutines.
type Portal struct {
	Config
	mux    *http.ServeMux
	pages  map[string]*template.Template
	assets *assets
}

// New returns the portal.
func New(c Config) (*Portal, error) {
	if c.API == nil {
		return nil, errors.New("make portal: no API")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	as, err := newAssets()
	if err != nil {
		return nil, err
	}
	p := &Portal{Config: c, mux: http.NewServeMux(), assets: as}
	if p.pages, err = loadPages(p); err != nil {
		return nil, err
	}
	p.routes()
	return p, nil
}

// ofAPI reports whether a path belongs to the API or to one of its doors.
func ofAPI(path string) bool {
	for _, prefix := range []string{rest.Prefix + "/", "/control/", "/agent/", "/metrics"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// contentPolicy lets a page load and send to its own origin only, and run no
// inline script or style.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP implements http.Handler.
func (p *Portal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if ofAPI(r.URL.Path) {
		p.API.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	h.Set("Cache-Control", "no-store")
	defer p.recovered(w, r)
	p.mux.ServeHTTP(w, r)
}

func (p *Portal) recovered(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // the very value that net/http compares with
		panic(v)
	}
	p.Log.Error("a page made the portal panic", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	http.Error(w, "The portal has a defect; the vault's log says more.", http.StatusInternalServerError)
}
