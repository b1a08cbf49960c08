package portal

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestPortalHeadersAndDoors: pages carry the strict policy, strangers are sent
// to the sign-in page, and what is the API's goes to the API untouched.
func TestPortalHeadersAndDoors(t *testing.T) {
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnauthorized)
		w.Write([]byte(`{"code":"NotAuthenticated","kind":"not-allowed","title":"no"}`))
	})
	p, err := New(Config{API: api})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "https://vault.example"+path, nil))
		return w
	}
	w := get("/items?q=a")
	if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != "/sign-in?next=%2Fitems%3Fq%3Da" {
		t.Errorf("a stranger at /items: %d to %q", w.Code, got)
	}
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'self'"} {
		if !strings.Contains(w.Header().Get("Content-Security-Policy"), want) {
			t.Errorf("the policy lacks %q: %s", want, w.Header().Get("Content-Security-Policy"))
		}
	}
	if w := get("/api/v1/items"); w.Code != http.StatusUnauthorized || w.Header().Get("Content-Security-Policy") != "" {
		t.Errorf("the API's answer: %d, %v", w.Code, w.Header())
	}
	sheet := get(p.assets.path(styleSheet))
	if sheet.Code != http.StatusOK || !strings.Contains(sheet.Header().Get("Cache-Control"), "immutable") || !strings.Contains(sheet.Body.String(), "--accent") {
		t.Errorf("the style sheet: %d, %v", sheet.Code, sheet.Header())
	}
	if w := get("/assets/0000/" + styleSheet); w.Code != http.StatusNotFound {
		t.Errorf("an asset of another version: %d", w.Code)
	}
}

// TestPortalNoInlineScriptOrStyle: the policy forbids them, so a template that
// has one is a page that does not work.
func TestPortalNoInlineScriptOrStyle(t *testing.T) {
	names, err := templateFiles.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	partials, err := templateFiles.ReadDir("templates/partials")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range names {
		if !e.IsDir() {
			files = append(files, "templates/"+e.Name())
		}
	}
	for _, e := range partials {
		files = append(files, "templates/partials/"+e.Name())
	}
	for _, f := range files {
		b, err := templateFiles.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ToLower(string(b))
		for _, bad := range []string{" style=", "<style", " onclick=", " onchange=", " onsubmit=", " onload=", "javascript:", "<script>", "http://", "//cdn"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s holds %q", f, bad)
			}
		}
	}
}
