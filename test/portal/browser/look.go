package browser

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// View is how a person looks at a page.
type View struct {
	Width, Height int64
	Dark          bool
	// NoMotion: the person has asked for less motion.
	NoMotion bool
	Print    bool
}

// The usual views.
var (
	// Wide is a screen of a desk, Narrow that of a phone.
	Wide   = View{Width: 1280, Height: 900, NoMotion: true}
	Narrow = View{Width: 360, Height: 740, NoMotion: true}
)

// InDark is the view of somebody whose system is dark.
func (v View) InDark() View { v.Dark = true; return v }

// Look sets how the page is looked at.
func (p *Page) Look(v View) {
	p.t.Helper()
	scheme, motion, media := "light", "no-preference", "screen"
	if v.Dark {
		scheme = "dark"
	}
	if v.NoMotion {
		motion = "reduce"
	}
	if v.Print {
		media = "print"
	}
	for _, err := range []error{
		call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: v.Width, Height: v.Height, DeviceScaleFactor: 1}),
		call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: media, Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion},
		}}),
	} {
		if err != nil {
			p.fail("set the view", err)
		}
	}
}

// NoScript loads pages from now on without their scripts.
func (p *Page) NoScript() {
	p.t.Helper()
	if err := call(p, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		p.fail("switch scripts off", err)
	}
}

// Zone sets the time zone and language of the person.
func (p *Page) Zone(zone string) {
	p.t.Helper()
	if err := call(p, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: zone}); err != nil {
		p.fail("set the time zone", err)
	}
}

// FitsSideways fails the test when the page has to be scrolled sideways, and
// names what is too wide.
func (p *Page) FitsSideways() {
	p.t.Helper()
	wide, err := evaluate[[]string](p, `(() => {
		const most = document.documentElement.clientWidth
		if (document.documentElement.scrollWidth <= most) return []
		const all = [...document.body.querySelectorAll("*")].filter(e => {
			const r = e.getBoundingClientRect()
			return r.width > 0 && r.right > most + 1
		})
		return ["page " + document.documentElement.scrollWidth + " of " + most, ...all.slice(-3).map(e => e.outerHTML.slice(0, 160))]
	})()`)
	if err != nil {
		p.fail("measure the page", err)
	}
	if len(wide) > 0 {
		p.t.Errorf("%s has to be scrolled sideways: %q", p.address(), wide)
	}
}

// Picture writes what can be seen, or with all set the page to its end, as PNG.
func (p *Page) Picture(path string, all bool) {
	p.t.Helper()
	if err := p.picture(path, all); err != nil {
		p.fail("take a picture", err)
	}
}

func (p *Page) picture(path string, all bool) error {
	params := page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatPng}
	if all {
		size, err := evaluate[[2]float64](p, `[document.documentElement.clientWidth, Math.max(document.documentElement.scrollHeight, innerHeight)]`)
		if err != nil {
			return err
		}
		const most = 6000
		params.CaptureBeyondViewport = &all
		params.Clip = &page.Viewport{Width: size[0], Height: min(size[1], most), Scale: 1}
	}
	shot, err := chromedp.Call(p.ctx, page.CaptureScreenshot, params)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return os.WriteFile(path, shot.Data, 0o644)
}
