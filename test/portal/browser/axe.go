package browser

import (
	"context"
	_ "embed" // axe-core
	"fmt"
	"strings"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// axeVersion is the release of axe-core in axe/.
const axeVersion = "4.14.1"

//go:embed axe/axe.min.js
var axeSource string

// finding is one rule of axe-core that a page breaks.
type finding struct {
	ID     string `json:"id"`
	Impact string `json:"impact"`
	Help   string `json:"help"`
	Nodes  []struct {
		HTML    string   `json:"html"`
		Target  []string `json:"target"`
		Summary string   `json:"failureSummary"`
	} `json:"nodes"`
}

// Accessible runs axe-core on the page as it is now and fails the test for each
// serious or critical finding. The script runs in a world of its own, apart
// from the page's scripts and its policy.
func (p *Page) Accessible() {
	p.t.Helper()
	found, err := p.axe()
	if err != nil {
		p.fail("run axe-core "+axeVersion, err)
	}
	for _, f := range found {
		if f.Impact != "serious" && f.Impact != "critical" {
			continue
		}
		var where []string
		for _, n := range f.Nodes[:min(3, len(f.Nodes))] {
			where = append(where, n.HTML+"\n      "+strings.ReplaceAll(n.Summary, "\n", "\n      "))
		}
		p.t.Errorf("%s: %s (%s, %s, %d places)\n    %s", p.address(), f.Help, f.ID, f.Impact, len(f.Nodes), strings.Join(where, "\n    "))
	}
}

func (p *Page) axe() ([]finding, error) {
	tree, err := chromedp.Call(p.ctx, page.GetFrameTree, cdp.Empty{})
	if err != nil {
		return nil, err
	}
	world, err := chromedp.Call(p.ctx, page.CreateIsolatedWorld, page.CreateIsolatedWorldParams{FrameID: tree.FrameTree.Frame.ID, WorldName: "axe"})
	if err != nil {
		return nil, err
	}
	yes := true
	ctx, cancel := context.WithTimeout(p.ctx, Patience) // it never ends where scripts are switched off
	defer cancel()
	in := func(expression string, out any) error {
		res, err := chromedp.Call(ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: expression, ContextID: world.ExecutionContextID, ReturnByValue: &yes, AwaitPromise: &yes})
		if err != nil {
			return err
		}
		if res.ExceptionDetails != nil {
			return fmt.Errorf("in the page: %s", describe(res.ExceptionDetails))
		}
		if out == nil {
			return nil
		}
		return decode(res.Result, out)
	}
	if err := in(axeSource+";0", nil); err != nil {
		return nil, err
	}
	var version string
	if err := in(`axe.version`, &version); err != nil || version != axeVersion {
		return nil, fmt.Errorf("axe-core says it is %q: %w", version, err)
	}
	var found []finding
	err = in(`axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => ({html: n.html, target: n.target.map(String), failureSummary: n.failureSummary || ""}))})))`, &found)
	return found, err
}
