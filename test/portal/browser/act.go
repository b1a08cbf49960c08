package browser

import (
	"errors"
	"fmt"
	"strings"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Open goes to a path of the site and waits until the document is there.
func (p *Page) Open(path string) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, chromedp.Navigate(p.base+path)); err != nil {
		p.fail("open "+path, err)
	}
}

// Reload loads the page again.
func (p *Page) Reload() {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, chromedp.Reload()); err != nil {
		p.fail("load the page again", err)
	}
}

// Click clicks a button by its name.
func (p *Page) Click(button string) { p.t.Helper(); p.Find("button", button).Click() }

// Follow clicks a link by its name.
func (p *Page) Follow(link string) { p.t.Helper(); p.Find("link", link).Click() }

// Click presses and lets go the mouse over the element, once it is there, can
// be used, stands still and is covered by nothing.
func (e *Element) Click() { e.p.t.Helper(); e.press(input.MouseButtonLeft) }

// Menu clicks the element with the right button.
func (e *Element) Menu() { e.p.t.Helper(); e.press(input.MouseButtonRight) }

func (e *Element) press(button input.MouseButton) {
	e.p.t.Helper()
	var x, y float64
	err := e.p.until(func() (err error) { x, y, err = e.spot(); return err })
	if err == nil {
		err = e.p.mouse(button, x, y) // once: it is no question any more
	}
	if err != nil {
		e.p.fail("click "+e.String(), err)
	}
}

// spot is a point of the element where a click reaches it.
func (e *Element) spot() (x, y float64, err error) {
	h, err := e.usable()
	if err != nil {
		return 0, 0, err
	}
	if err := call(e.p, dom.ScrollIntoViewIfNeeded, dom.ScrollIntoViewIfNeededParams{ObjectID: h.object}); err != nil {
		return 0, 0, err
	}
	quads, err := chromedp.Call(e.p.ctx, dom.GetContentQuads, dom.GetContentQuadsParams{ObjectID: h.object})
	if err != nil {
		return 0, 0, err
	}
	if len(quads.Quads) == 0 {
		return 0, 0, errors.New("it has no size")
	}
	q := quads.Quads[0]
	x, y = (q[0]+q[2]+q[4]+q[6])/4, (q[1]+q[3]+q[5]+q[7])/4
	over, err := ask[string](e.p, h.object, `function(x, y) {
		const top = document.elementFromPoint(x, y)
		const own = top && (top === this || this.contains(top) || [...(this.labels || [])].some(l => l.contains(top)))
		return own ? "" : top ? top.outerHTML.slice(0, 120) : "nothing"
	}`, x, y)
	if err == nil && over != "" {
		err = fmt.Errorf("a click at %.0f,%.0f would reach %s", x, y, over)
	}
	return x, y, err
}

// usable is the element, once it is neither hidden nor disabled.
func (e *Element) usable() (handle, error) {
	h, err := e.look()
	if err != nil {
		return h, err
	}
	for _, prop := range h.node.Properties {
		if prop.Name == "disabled" && prop.Value != nil && string(prop.Value.Value) == "true" {
			return h, errors.New("it is disabled")
		}
	}
	return h, nil
}

func (p *Page) mouse(button input.MouseButton, x, y float64) error {
	for _, typ := range []input.DispatchMouseEventType{input.DispatchMouseEventTypeMouseMoved, input.DispatchMouseEventTypeMousePressed, input.DispatchMouseEventTypeMouseReleased} {
		ev := input.DispatchMouseEventParams{Type: typ, X: x, Y: y}
		if typ != input.DispatchMouseEventTypeMouseMoved {
			ev.Button, ev.ClickCount = button, 1
		}
		if err := call(p, input.DispatchMouseEvent, ev); err != nil {
			return err
		}
	}
	return nil
}

// Fill types a value into the field with a label, in place of what it holds.
func (p *Page) Fill(label, value string) { p.t.Helper(); p.fillIn(nil, label, value) }

// Fill is Page.Fill within an element.
func (e *Element) Fill(label, value string) { e.p.t.Helper(); e.p.fillIn(e, label, value) }

func (p *Page) fillIn(in *Element, label, value string) {
	p.t.Helper()
	err := p.until(func() error {
		h, err := p.field(in, label, "textbox", "searchbox", "spinbutton", "combobox", "Date", "DateTime", "InputTime")
		if err != nil {
			return err
		}
		// What is typed into the wrong field would be seen at the comparison.
		if _, err := ask[bool](p, h.object, `function() { this.scrollIntoView({block: "center"}); this.focus(); if (this.select) this.select(); return true }`); err != nil {
			return err
		}
		if err := p.typeIn(h.object, value); err != nil {
			return err
		}
		got, err := ask[string](p, h.object, `function() { return this.value }`)
		if err == nil && got != value {
			err = fmt.Errorf("it holds %q", got)
		}
		return err
	})
	if err != nil {
		p.fail(fmt.Sprintf("fill %q", label), err)
	}
}

// typeIn types text into the field that has the focus. A field of a date or a
// time takes no free text; its value is set as its own picker does.
func (p *Page) typeIn(field runtime.RemoteObjectID, value string) error {
	picker, err := ask[bool](p, field, `function(v) {
		if (!["date", "time", "datetime-local"].includes(this.type)) return false
		this.value = v
		this.dispatchEvent(new Event("input", {bubbles: true}))
		this.dispatchEvent(new Event("change", {bubbles: true}))
		return true
	}`, value)
	if err != nil || picker {
		return err
	}
	if value == "" {
		return p.key(kb.Backspace)
	}
	return call(p, input.InsertText, input.InsertTextParams{Text: value})
}

// field finds a field by its label in one of several roles.
func (p *Page) field(in *Element, label string, roles ...string) (handle, error) {
	for _, role := range roles {
		h, err := (&Element{p: p, in: in, role: role, name: label}).usable()
		if !errors.Is(err, errAbsent) {
			return h, err
		}
	}
	return handle{}, errAbsent
}

// Choose picks the option with a text in the list with a label.
func (p *Page) Choose(label, option string) { p.t.Helper(); p.chooseIn(nil, label, option) }

// Choose is Page.Choose within an element.
func (e *Element) Choose(label, option string) { e.p.t.Helper(); e.p.chooseIn(e, label, option) }

func (p *Page) chooseIn(in *Element, label, option string) {
	p.t.Helper()
	err := p.until(func() error {
		h, err := p.field(in, label, "combobox", "listbox")
		if err != nil {
			return err
		}
		problem, err := ask[string](p, h.object, `function(text) {
			const all = [...this.options]
			const o = all.find(o => o.textContent.trim() === text) || all.find(o => o.value === text)
			if (!o) return "it offers " + all.map(o => o.textContent.trim()).join(", ")
			if (o.disabled) return "that option is disabled"
			this.scrollIntoView({block: "center"}); this.focus()
			if (this.multiple) { o.selected = true } else { this.value = o.value }
			this.dispatchEvent(new Event("input", {bubbles: true}))
			this.dispatchEvent(new Event("change", {bubbles: true}))
			return ""
		}`, option)
		if err == nil && problem != "" {
			err = errors.New(problem)
		}
		return err
	})
	if err != nil {
		p.fail(fmt.Sprintf("choose %q of %q", option, label), err)
	}
}

// Tick switches the box or the choice with a label on.
func (p *Page) Tick(label string) { p.t.Helper(); p.tickIn(nil, label, true) }

// Untick switches the box with a label off.
func (p *Page) Untick(label string) { p.t.Helper(); p.tickIn(nil, label, false) }

// Tick is Page.Tick within an element.
func (e *Element) Tick(label string) { e.p.t.Helper(); e.p.tickIn(e, label, true) }

func (p *Page) tickIn(in *Element, label string, on bool) {
	p.t.Helper()
	err := p.until(func() error {
		var absent error
		for _, role := range []string{"checkbox", "radio", "switch"} {
			e := &Element{p: p, in: in, role: role, name: label}
			h, err := e.usable()
			if errors.Is(err, errAbsent) {
				absent = err
				continue
			}
			if err != nil {
				return err
			}
			is, err := ask[bool](p, h.object, `function() { return this.checked }`)
			if err != nil || is == on {
				return err
			}
			x, y, err := e.spot()
			if err != nil {
				return err
			}
			if err := p.mouse(input.MouseButtonLeft, x, y); err != nil {
				return err
			}
			return errors.New("it did not change")
		}
		return absent
	})
	if err != nil {
		p.fail(fmt.Sprintf("set %q to %v", label, on), err)
	}
}

// Press sends keys to what has the focus: "Enter", "Tab", "Shift+Tab",
// "Escape", "ArrowDown", or letters.
func (p *Page) Press(keys ...string) {
	p.t.Helper()
	for _, k := range keys {
		if err := p.named(k); err != nil {
			p.fail("press "+k, err)
		}
	}
}

func (p *Page) named(k string) error {
	var opts []chromedp.KeyOption
	for {
		mod, rest, ok := strings.Cut(k, "+")
		if !ok || rest == "" {
			break
		}
		switch mod {
		case "Shift":
			opts = append(opts, chromedp.KeyModifiers(kb.ModifierShift))
		case "Control":
			opts = append(opts, chromedp.KeyModifiers(kb.ModifierCtrl))
		case "Alt":
			opts = append(opts, chromedp.KeyModifiers(kb.ModifierAlt))
		default:
			return fmt.Errorf("unknown modifier %q", mod)
		}
		k = rest
	}
	names := map[string]string{
		"Enter": kb.Enter, "Tab": kb.Tab, "Escape": kb.Escape, "Space": " ", "Backspace": kb.Backspace,
		"ArrowDown": kb.ArrowDown, "ArrowUp": kb.ArrowUp, "ArrowLeft": kb.ArrowLeft, "ArrowRight": kb.ArrowRight,
		"Home": kb.Home, "End": kb.End, "PageUp": kb.PageUp, "PageDown": kb.PageDown,
	}
	if s, ok := names[k]; ok {
		k = s
	}
	return p.key(k, opts...)
}

func (p *Page) key(keys string, opts ...chromedp.KeyOption) error {
	return chromedp.Do(p.ctx, chromedp.KeyEvent(keys, opts...))
}

// Focused is the role and name of what has the focus.
func (p *Page) Focused() (role, name string) {
	p.t.Helper()
	err := p.until(func() error {
		h, err := p.focused()
		if err == nil {
			role, name = word(h.node.Role), word(h.node.Name)
		}
		return err
	})
	if err != nil {
		p.fail("find the focus", err)
	}
	return role, name
}

// TabTo presses Tab until an element has the focus, as somebody without a mouse
// does; at most as often as there are things to stop at.
func (p *Page) TabTo(role, name string) {
	p.t.Helper()
	const most = 250
	var seen []string
	for range most {
		if r, n := p.Focused(); r == role && n == name {
			return
		} else if len(seen) < 40 {
			seen = append(seen, r+" "+n)
		}
		p.Press("Tab")
	}
	p.fail(fmt.Sprintf("reach %s %q by the keyboard", role, name), fmt.Errorf("the focus went over %s", strings.Join(seen, ", ")))
}

func (p *Page) resolve(id cdp.BackendNodeID) (runtime.RemoteObjectID, error) {
	res, err := chromedp.Call(p.ctx, dom.ResolveNode, dom.ResolveNodeParams{BackendNodeID: id, ObjectGroup: group})
	if err != nil {
		return "", err
	}
	return res.Object.ObjectID, nil
}
