package gateway

import (
	"context"
	"slices"

	"rebound/internal/control"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/site/sitetest"
)

// ValidateSite holds the site's driver to its contract, on scratch machines that
// are gone afterwards. Machines of the site are not touched.
func (g *Gateway) ValidateSite(ctx context.Context, _ control.Origin, _ control.ValidateRequest) (control.ValidateResult, error) {
	out := control.ValidateResult{Checks: []control.SiteCheck{}}
	s, ok := g.driver.(site.Scratcher)
	if !ok {
		return out, problem.New(problem.InvalidRequest, "this kind of site has no place for scratch machines")
	}
	networks, err := g.driver.Networks(ctx)
	if err != nil {
		return out, err
	}
	i := slices.IndexFunc(networks, func(n site.Network) bool { return !n.Test })
	if i < 0 {
		return out, problem.New(problem.UnknownNetwork, "the site has no network that scratch machines could start on")
	}
	results, err := sitetest.Check(ctx, sitetest.Factory{
		Network: networks[i].Name,
		View:    sitetest.View,
		New: func(t sitetest.T) site.Driver {
			d, done, err := s.Scratch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := done(); err != nil {
					t.Error(err)
				}
			})
			return d
		},
	}, func(done, total int, r sitetest.Result) {
		control.ReportProgress(ctx, control.Progress{Done: int64(done), Total: int64(total), Unit: "checks", Text: r.Name})
	})
	for _, r := range results {
		out.Checks = append(out.Checks, control.SiteCheck{Name: r.Name, Outcome: string(r.Outcome), Took: r.Took, Text: r.Text})
	}
	return out, err
}
