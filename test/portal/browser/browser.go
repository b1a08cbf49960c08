// Package browser drives a real Chromium for the portal's tests. It finds what
// is on a page as a person with a screen reader does, by role and accessible
// name, clicks and types with real input events, and waits for conditions only.
// What goes wrong ends the test with a picture of the page. Tests alone may use
// it; it is no part of the program.
package browser

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"
)

// Patience bounds each wait for something on a page. It says nothing about how
// fast the page has to be: tests that run beside others may be slow.
const Patience = time.Minute

// Browser is one headless Chromium with a profile of its own.
type Browser struct {
	t   testing.TB
	ctx context.Context
}

// Start starts a Chromium; it ends with the test. A machine without Chromium
// skips the test, unless REBOUND_REQUIRE_TOOLS is set.
func Start(t testing.TB) *Browser {
	t.Helper()
	path := program(t)
	// Not t.TempDir: Chromium writes on while it is killed, and chromedp
	// removes the profile that it made itself with patience.
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1280, 900),
		chromedp.Flag("font-render-hinting", "none"), chromedp.Flag("disable-lcd-text", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.Flag("lang", "en-US"),
		chromedp.WSURLReadTimeout(Patience),
	)
	alloc, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), opts...)
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithErrorf(func(string, ...any) {}), chromedp.WithLogf(func(string, ...any) {}))
	t.Cleanup(func() {
		end, done := context.WithTimeout(ctx, 10*time.Second)
		chromedp.Cancel(end) //nolint:errcheck // it is killed below when it does not end by itself
		done()
		cancel()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return &Browser{t: t, ctx: ctx}
}

// program finds Chromium: $REBOUND_CHROMIUM, or what Debian and others call it.
func program(t testing.TB) string {
	t.Helper()
	for _, name := range []string{os.Getenv("REBOUND_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	if os.Getenv("REBOUND_REQUIRE_TOOLS") != "" {
		t.Fatal("there is no chromium; scripts/install-deps installs it")
	}
	t.Skip("needs chromium")
	return ""
}

// Page is one tab, in the hands of one person: its cookies are its own.
type Page struct {
	t    testing.TB
	ctx  context.Context
	base string

	mu       sync.Mutex
	troubles []string
	excused  []*regexp.Regexp
	loads    int
	requests []string
}

// NewPage opens a tab whose addresses are relative to base, such as
// https://127.0.0.1:8443. At the end of the test, what the browser complained
// about (a script that failed, something that the page's policy forbids) and
// requests to other hosts fail it.
func (b *Browser) NewPage(t testing.TB, base string) *Page {
	t.Helper()
	p := &Page{t: t, base: strings.TrimSuffix(base, "/")}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(p.listen))
	p.ctx = ctx
	t.Cleanup(func() {
		if t.Failed() {
			p.keepPicture()
		}
		p.calm()
		cancel()
	})
	yes := true
	for _, err := range []error{
		chromedp.Do(ctx),
		call(p, security.SetIgnoreCertificateErrors, security.SetIgnoreCertificateErrorsParams{Ignore: true}),
		call(p, page.SetLifecycleEventsEnabled, page.SetLifecycleEventsEnabledParams{Enabled: yes}),
	} {
		if err != nil {
			t.Fatalf("open a tab: %v", err)
		}
	}
	p.Look(Wide)
	return p
}

// listen is called for every event of the tab; it must not block.
func (p *Page) listen(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		text := ev.ExceptionDetails.Text
		if e := ev.ExceptionDetails.Exception; e != nil {
			text += " " + e.Description
		}
		p.troubles = append(p.troubles, "script failed: "+text)
	case *runtime.EventConsoleAPICalled:
		if ev.Type == runtime.ConsoleAPICalledTypeError || ev.Type == runtime.ConsoleAPICalledTypeWarning {
			var text []string
			for _, a := range ev.Args {
				text = append(text, strings.Trim(string(a.Value), `"`)+a.Description)
			}
			p.troubles = append(p.troubles, "console: "+strings.Join(text, " "))
		}
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.EntryLevelError {
			p.troubles = append(p.troubles, "browser: "+ev.Entry.Text+" "+ev.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u := ev.Request.URL; strings.HasPrefix(u, "http") {
			p.requests = append(p.requests, ev.Request.Method+" "+strings.TrimPrefix(u, p.base))
			if !strings.HasPrefix(u, p.base+"/") {
				p.troubles = append(p.troubles, "request to another host: "+u)
			}
		}
	case *page.EventFrameNavigated:
		if ev.Frame.ParentID == "" {
			p.loads++
		}
	}
}

// Excuse lets complaints of the browser pass that match a pattern, such as the
// 403 that the test is about.
func (p *Page) Excuse(pattern string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.excused = append(p.excused, regexp.MustCompile(pattern))
}

// calm fails the test for what the browser complained about.
func (p *Page) calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range p.troubles {
		excused := false
		for _, re := range p.excused {
			excused = excused || re.MatchString(text)
		}
		if !excused {
			p.t.Errorf("%s", text)
		}
	}
}

// Loads counts the documents that the tab has loaded.
func (p *Page) Loads() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loads
}

// Requests lists what the tab has asked for, as "GET /path".
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.requests...)
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9]+`)

// keepPicture leaves a picture of the page in out/portal of the project.
func (p *Page) keepPicture() {
	dir := os.Getenv("REBOUND_PORTAL_OUT")
	if dir == "" {
		dir = filepath.Join(projectDir(), "out", "portal")
	}
	path := filepath.Join(dir, strings.Trim(unfit.ReplaceAllString(p.t.Name(), "-"), "-")+time.Now().UTC().Format("-150405.000")+".png")
	if err := p.picture(path, true); err != nil {
		p.t.Logf("no picture of the page: %v", err)
		return
	}
	p.t.Logf("a picture of %s is in %s", p.address(), path)
}

// projectDir is the directory above that has the go.mod.
func projectDir() string {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return "."
}
