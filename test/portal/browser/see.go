package browser

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// text is what can be read on the page.
func (p *Page) text() (string, error) {
	return evaluate[string](p, `document.body ? document.body.innerText : ""`)
}

// address is the page's path and query.
func (p *Page) address() string {
	s, err := evaluate[string](p, `location.pathname + location.search`)
	if err != nil {
		return "an unknown address"
	}
	return s
}

// Address is the page's path and query.
func (p *Page) Address() string { return p.address() }

// Text is what can be read on the page now.
func (p *Page) Text() string {
	p.t.Helper()
	s, err := p.text()
	if err != nil {
		p.fail("read the page", err)
	}
	return s
}

// Title is the document's title.
func (p *Page) Title() string {
	p.t.Helper()
	s, err := evaluate[string](p, `document.title`)
	if err != nil {
		p.fail("read the title", err)
	}
	return s
}

// Expect waits until all texts can be read on the page.
func (p *Page) Expect(texts ...string) {
	p.t.Helper()
	p.wait("read "+quoted(texts), p.text, func(got string) error { return hasAll(got, texts) })
}

// ExpectNot waits until none of the texts can be read on the page.
func (p *Page) ExpectNot(texts ...string) {
	p.t.Helper()
	p.wait("read no more "+quoted(texts), p.text, func(got string) error { return hasNone(got, texts) })
}

// ExpectAt waits until the page's address begins with a path.
func (p *Page) ExpectAt(path string) {
	p.t.Helper()
	p.wait("be at "+path, func() (string, error) { return p.address(), nil }, func(got string) error {
		if !strings.HasPrefix(got, path) {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// Heading waits for a heading with exactly this text.
func (p *Page) Heading(text string) { p.t.Helper(); p.Find("heading", text).Expect() }

// Wait waits until a look succeeds; what says what is waited for.
func (p *Page) Wait(what string, look func() error) {
	p.t.Helper()
	if err := p.until(look); err != nil {
		p.fail(what, err)
	}
}

func (p *Page) wait(what string, read func() (string, error), judge func(string) error) {
	p.t.Helper()
	p.Wait(what, func() error {
		got, err := read()
		if err != nil {
			return err
		}
		return judge(got)
	})
}

// Expect waits until the element is there, with all texts in it.
func (e *Element) Expect(texts ...string) {
	e.p.t.Helper()
	what := "see " + e.String()
	if len(texts) > 0 {
		what += " say " + quoted(texts)
	}
	e.p.wait(what, e.text, func(got string) error { return hasAll(got, texts) })
}

// ExpectNot waits until the element is there without any of the texts.
func (e *Element) ExpectNot(texts ...string) {
	e.p.t.Helper()
	e.p.wait("see "+e.String()+" without "+quoted(texts), e.text, func(got string) error { return hasNone(got, texts) })
}

// Gone waits until the element is no longer there.
func (e *Element) Gone() {
	e.p.t.Helper()
	e.p.Wait("see no more "+e.String(), func() error {
		_, err := e.look()
		switch {
		case errors.Is(err, errAbsent):
			return nil
		case err == nil:
			return errors.New("it is there")
		}
		return err
	})
}

// Is reports whether the element is there now.
func (e *Element) Is() bool {
	_, err := e.look()
	e.p.release()
	return err == nil
}

// Disabled waits until the element is there and cannot be used; the reason that
// it gives is returned.
func (e *Element) Disabled() string {
	e.p.t.Helper()
	var why string
	e.p.Wait("see "+e.String()+" disabled", func() error {
		h, err := e.look()
		if err != nil {
			return err
		}
		for _, prop := range h.node.Properties {
			if prop.Name == "disabled" && string(prop.Value.Value) == "true" {
				why = word(h.node.Description)
				return nil
			}
		}
		return errors.New("it can be used")
	})
	return why
}

// Text is what can be read in the element, once it is there.
func (e *Element) Text() string {
	e.p.t.Helper()
	var out string
	e.p.wait("read "+e.String(), e.text, func(got string) error { out = got; return nil })
	return out
}

// Value is what a field holds.
func (e *Element) Value() string {
	e.p.t.Helper()
	var out string
	e.p.Wait("read the value of "+e.String(), func() error {
		h, err := e.look()
		if err == nil {
			out, err = ask[string](e.p, h.object, `function() { return this.value }`)
		}
		return err
	})
	return out
}

// Eval runs an expression in the page and returns its value.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	v, err := evaluate[T](p, expression)
	if err != nil {
		p.fail(expression, err)
	}
	return v
}

func (e *Element) text() (string, error) {
	h, err := e.look()
	if err != nil {
		return "", err
	}
	return ask[string](e.p, h.object, `function() { return this.innerText ?? this.textContent }`)
}

// focused is the element that has the focus; the body when none has.
func (p *Page) focused() (handle, error) {
	res, err := chromedp.Call(p.ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: "document.activeElement", ObjectGroup: group})
	if err != nil {
		return handle{}, err
	}
	id := res.Result.ObjectID
	tree, err := chromedp.Call(p.ctx, accessibility.GetPartialAXTree, accessibility.GetPartialAXTreeParams{ObjectID: id})
	if err != nil {
		return handle{}, err
	}
	if len(tree.Nodes) == 0 {
		return handle{}, errAbsent
	}
	return handle{id, tree.Nodes[0]}, nil
}

func word(v *accessibility.Value) string {
	var s string
	if v != nil {
		json.Unmarshal(v.Value, &s) //nolint:errcheck // what is no text is no name
	}
	return s
}

func hasAll(got string, texts []string) error {
	for _, s := range texts {
		if !strings.Contains(plain(got), plain(s)) {
			return fmt.Errorf("%q is not there", s)
		}
	}
	return nil
}

func hasNone(got string, texts []string) error {
	for _, s := range texts {
		if strings.Contains(plain(got), plain(s)) {
			return fmt.Errorf("%q is there", s)
		}
	}
	return nil
}

// plain makes line breaks and tabs between words into spaces.
func plain(s string) string { return strings.Join(strings.Fields(s), " ") }

func quoted(texts []string) string {
	q := make([]string, len(texts))
	for i, s := range texts {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}
