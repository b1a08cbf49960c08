package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// call sends a command whose answer does not matter.
func call[P, R any](p *Page, cmd cdp.Command[P, R], params P) error {
	_, err := chromedp.Call(p.ctx, cmd, params)
	return err
}

// Element is something on a page, found again each time that it is used, so
// that it may be replaced in the meantime.
type Element struct {
	p    *Page
	in   *Element
	role string
	// name is what the element is called; has is a text in it. Empty: any.
	name, has string
	last      bool
}

// Find is the element of a role with an accessible name, anywhere on the page.
// The name is compared as a whole.
func (p *Page) Find(role, name string) *Element { return &Element{p: p, role: role, name: name} }

// With is the innermost element of a role that has a text in it: the row of a
// table or the article of a list that speaks of something.
func (p *Page) With(role, text string) *Element {
	return &Element{p: p, role: role, has: text, last: true}
}

// Find is an element within another.
func (e *Element) Find(role, name string) *Element {
	return &Element{p: e.p, in: e, role: role, name: name}
}

// With is an element within another.
func (e *Element) With(role, text string) *Element {
	return &Element{p: e.p, in: e, role: role, has: text, last: true}
}

// String says what is looked for.
func (e *Element) String() string {
	s := e.role
	if e.name != "" {
		s += fmt.Sprintf(" %q", e.name)
	}
	if e.has != "" {
		s += fmt.Sprintf(" with %q", e.has)
	}
	if e.in != nil {
		s += " in " + e.in.String()
	}
	return s
}

// handle is an element as the browser knows it at one moment.
type handle struct {
	object runtime.RemoteObjectID
	node   *accessibility.Node
}

var errAbsent = errors.New("it is not on the page")

// look finds the element now.
func (e *Element) look() (handle, error) {
	root, err := e.root()
	if err != nil {
		return handle{}, err
	}
	all, err := chromedp.Call(e.p.ctx, accessibility.QueryAXTree, accessibility.QueryAXTreeParams{ObjectID: root, Role: e.role, AccessibleName: e.name})
	if err != nil {
		return handle{}, err
	}
	var best handle
	for _, n := range all.Nodes {
		if n.Ignored || n.BackendDOMNodeID == 0 {
			continue
		}
		object, err := e.p.resolve(n.BackendDOMNodeID)
		if err != nil {
			continue // it was replaced just now
		}
		if e.has != "" {
			has, err := ask[bool](e.p, object, `function(s) { return this.innerText.includes(s) }`, e.has)
			if err != nil || !has {
				continue
			}
		}
		best = handle{object, n}
		if !e.last {
			break
		}
	}
	if best.object == "" {
		return best, errAbsent
	}
	return best, nil
}

func (e *Element) root() (runtime.RemoteObjectID, error) {
	if e.in != nil {
		h, err := e.in.look()
		return h.object, err
	}
	doc, err := chromedp.Call(e.p.ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: "document", ObjectGroup: group})
	if err != nil {
		return "", err
	}
	return doc.Result.ObjectID, nil
}

// group holds the handles of one look, to be let go together.
const group = "rebound-test"

// until looks again and again until it succeeds or Patience ends.
func (p *Page) until(look func() error) error {
	ctx, cancel := context.WithTimeout(p.ctx, Patience)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		p.release()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", Patience, err)
		case <-tick.C:
		}
	}
}

// release lets the handles of a look go.
func (p *Page) release() {
	call(p, runtime.ReleaseObjectGroup, runtime.ReleaseObjectGroupParams{ObjectGroup: group}) //nolint:errcheck // a tab that is gone holds none
}

// fail ends the test with what is on the page.
func (p *Page) fail(what string, err error) {
	p.t.Helper()
	text, _ := p.text()
	const most = 3000
	if len(text) > most {
		text = text[:most] + " …"
	}
	p.t.Fatalf("%s: %v\nat %s:\n%s", what, err, p.address(), indent(text))
}

func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }

// ask calls a function of the page's language on an element.
func ask[T any](p *Page, object runtime.RemoteObjectID, function string, args ...any) (T, error) {
	var out T
	yes := true
	params := runtime.CallFunctionOnParams{FunctionDeclaration: function, ObjectID: object, ReturnByValue: &yes, AwaitPromise: &yes, ObjectGroup: group}
	for _, a := range args {
		b, err := json.Marshal(a)
		if err != nil {
			return out, err
		}
		params.Arguments = append(params.Arguments, &runtime.CallArgument{Value: b})
	}
	res, err := chromedp.Call(p.ctx, runtime.CallFunctionOn, params)
	if err != nil {
		return out, err
	}
	if res.ExceptionDetails != nil {
		return out, fmt.Errorf("in the page: %s", describe(res.ExceptionDetails))
	}
	return out, decode(res.Result, &out)
}

// evaluate runs an expression in the page.
func evaluate[T any](p *Page, expression string) (T, error) {
	var out T
	yes := true
	res, err := chromedp.Call(p.ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: expression, ReturnByValue: &yes, AwaitPromise: &yes})
	if err != nil {
		return out, err
	}
	if res.ExceptionDetails != nil {
		return out, fmt.Errorf("in the page: %s", describe(res.ExceptionDetails))
	}
	return out, decode(res.Result, &out)
}

func decode(o *runtime.RemoteObject, out any) error {
	if o == nil || len(o.Value) == 0 {
		return nil
	}
	return json.Unmarshal(o.Value, out)
}

func describe(d *runtime.ExceptionDetails) string {
	if d.Exception != nil {
		return d.Text + " " + d.Exception.Description
	}
	return d.Text
}
