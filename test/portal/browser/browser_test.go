package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const policy = "default-src 'none'; script-src 'self'; style-src 'self'"

const good = `<!doctype html><html lang=en><head><meta charset=utf-8><title>Shop</title><meta name=viewport content="width=device-width"></head>
<body><main><h1>Shop</h1><p id=said></p>
<form method=post action=/said><label>Name <input name=name></label>
<label>Colour <select name=colour><option>red<option value=b>blue</select></label>
<label><input type=checkbox name=sure value=yes> Sure</label>
<button>Send</button> <button disabled aria-describedby=why>Delete</button><span id=why>nothing to delete</span></form>
<table><caption>Things</caption><tr><th scope=row>one<td><button formmethod=get form=f name=go value=one>Go</button><tr><th scope=row>two<td><button form=f name=go value=two>Go</button></table>
<form id=f action=/went></form></main><script src=/s.js></script></body></html>`

// site is a small site with a strict policy; extra is added to the good page.
func site(t *testing.T, extra string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	page := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, body)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		page(w, strings.Replace(good, "</main>", extra+"</main>", 1))
	})
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	mux.HandleFunc("GET /s.js", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, `setTimeout(() => document.getElementById("said").textContent = "script ran", 100)`)
	})
	mux.HandleFunc("POST /said", func(w http.ResponseWriter, r *http.Request) {
		page(w, fmt.Sprintf("<!doctype html><html lang=en><title>said</title><h1>%s %s %s</h1>", r.FormValue("name"), r.FormValue("colour"), r.FormValue("sure")))
	})
	mux.HandleFunc("GET /went", func(w http.ResponseWriter, r *http.Request) {
		page(w, "<!doctype html><html lang=en><title>went</title><h1>to "+r.FormValue("go")+"</h1>")
	})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

func TestDrive(t *testing.T) {
	b := Start(t)
	p := b.NewPage(t, site(t, "").URL)
	p.Open("/")
	p.Expect("script ran")
	p.Accessible()
	if why := p.Find("button", "Delete").Disabled(); why != "nothing to delete" {
		t.Errorf("the reason is %q", why)
	}
	p.Fill("Name", "first")
	p.Fill("Name", "Ünï cødé")
	p.Choose("Colour", "blue")
	p.Tick("Sure")
	p.Click("Send")
	p.Heading("Ünï cødé b yes")
	p.Open("/")
	p.With("row", "two").Find("button", "Go").Click()
	p.Heading("to two")
	p.Open("/")
	p.TabTo("checkbox", "Sure")
	p.Press("Space")
	p.TabTo("button", "Send")
	p.Press("Enter")
	p.Heading("red yes")
	if p.Loads() < 6 {
		t.Errorf("%d documents were loaded", p.Loads())
	}
	p.NoScript()
	p.Open("/")
	p.Heading("Shop")
	p.ExpectNot("script ran")
	if got := Eval[int](p, "1+1"); got != 2 {
		t.Errorf("1+1 is %d", got)
	}
	pic := filepath.Join(t.TempDir(), "x.png")
	p.Look(Narrow.InDark())
	p.FitsSideways()
	p.Picture(pic, true)
	if st, err := os.Stat(pic); err != nil || st.Size() < 1000 {
		t.Errorf("the picture: %v, %v", st, err)
	}
}

// judge is a test in which the checks may fail: it takes what they say.
type judge struct {
	testing.TB
	said []string
	ends []func()
}

func (j *judge) Errorf(format string, args ...any) {
	j.said = append(j.said, fmt.Sprintf(format, args...))
}
func (j *judge) Fatalf(format string, args ...any) { j.Errorf(format, args...); runtime.Goexit() }
func (j *judge) Failed() bool                      { return false }
func (j *judge) Cleanup(f func())                  { j.ends = append(j.ends, f) }

// TestChecksFail: each check notices what it is for.
func TestChecksFail(t *testing.T) {
	b := Start(t)
	for name, c := range map[string]struct{ extra, want string }{
		"axe":      {`<img src="/favicon.ico"><input>`, "image-alt"},
		"sideways": {`<pre>` + strings.Repeat("wide", 500) + `</pre>`, "scrolled sideways"},
		"inline":   {`<p style="color:red">inline</p>`, "Content Security Policy"},
		"script":   {`<script>alert(1)</script>`, "Content Security Policy"},
		"foreign":  {`<a href="https://localhost:1/">away</a>`, "another host"},
	} {
		t.Run(name, func(t *testing.T) {
			j := &judge{TB: t}
			p := b.NewPage(j, site(t, c.extra).URL)
			done := make(chan struct{})
			go func() {
				defer close(done)
				p.Open("/")
				p.Expect("script ran")
				if name == "foreign" {
					p.Follow("away")
					p.ExpectNot("Shop")
				}
				p.Accessible()
				p.FitsSideways()
			}()
			<-done
			for _, f := range j.ends {
				f()
			}
			if !strings.Contains(strings.Join(j.said, "\n"), c.want) {
				t.Errorf("nothing about %q in %q", c.want, j.said)
			}
		})
	}
}
