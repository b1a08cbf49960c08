package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"rebound/internal/control"
	"rebound/internal/logging"
	"rebound/internal/metrics"
)

// Support implements control.Commands. A part that cannot be read is named instead.
func (g *Gateway) Support(ctx context.Context) (control.SupportFiles, error) {
	var out control.SupportFiles
	add := func(name string, data []byte) {
		out.Files = append(out.Files, control.SupportFile{Name: name, Data: data})
	}
	show := func(name string, v any, err error) {
		if err == nil {
			var b []byte
			if b, err = json.Marshal(v); err == nil {
				add(name, logging.RedactJSON(b))
				return
			}
		}
		add(name+".error", []byte(err.Error()+"\n"))
	}
	add("log.jsonl", g.cfg.Recent.Bytes())
	show("host.json", g.hostReport(ctx), nil)
	inv, err := g.Inventory(ctx)
	for i := range inv.Machines {
		inv.Machines[i].Definition.NVRAM = nil // it may hold keys
	}
	show("site.json", inv, err)
	show("groups.json", g.groupReports(), nil)
	show("journals.json", g.standby.Journals(), nil)
	text, err := metrics.Text(ctx, g.MetricSource())
	if err != nil {
		return out, err
	}
	add("metrics.txt", text)
	for _, pattern := range []string{"sources/*/source.json", "journals/*/standby.json", "seeds/*.json"} {
		files, err := filepath.Glob(filepath.Join(g.cfg.Dir, pattern))
		if err != nil {
			return out, fmt.Errorf("list state files: %w", err)
		}
		for _, f := range files {
			rel, err := filepath.Rel(g.cfg.Dir, f)
			if err != nil {
				return out, fmt.Errorf("name state file: %w", err)
			}
			b, err := os.ReadFile(f)
			if err != nil {
				add("state/"+rel+".error", []byte(err.Error()+"\n"))
				continue
			}
			add("state/"+rel, logging.RedactJSON(b))
		}
	}
	return out, nil
}
