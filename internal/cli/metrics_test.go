package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rebound/internal/agent"
	"rebound/internal/gateway"
	"rebound/internal/metrics"
	"rebound/internal/vault/api"
)

// tables are all metrics there are, by process.
func metricTables() []struct {
	process string
	defs    []metrics.Def
} {
	return []struct {
		process string
		defs    []metrics.Def
	}{{"vault", api.MetricDefs()}, {"gateway, with its captures", gateway.MetricDefs()}, {"agent", agent.MetricDefs()}}
}

// TestMetricsDocument keeps docs/metrics.md equal to the tables: -update writes it.
func TestMetricsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Metrics\n\nGenerated: `go test ./internal/cli -run TestMetricsDocument -update`. Every process also tells the numbers of the Go runtime and of its process (`go_…`, `process_…`).\n\n" +
		"The vault serves `/metrics` on its own port to callers with a token of the role reader, and with `--metrics ADDR` on a further port without TLS and token; gateways and agents with `--metrics ADDR`. [alerts.yml](alerts.yml) has example rules.\n")
	for _, x := range metricTables() {
		fmt.Fprintf(&b, "\n## %s\n\n| name | type | labels | meaning |\n|---|---|---|---|\n", strings.ToUpper(x.process[:1])+x.process[1:])
		for _, d := range x.defs {
			kind := "gauge"
			if d.Counter {
				kind = "counter"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.Name, kind, strings.Join(d.Labels, ", "), d.Help)
		}
	}
	path := filepath.Join("..", "..", "docs", "metrics.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/metrics.md is out of date (%v): run with -update", err)
	}
}

// TestMetricNames: names say what they count in which unit, have help, and are there
// once; the example rules name none that is not there.
func TestMetricNames(t *testing.T) {
	var names []string
	for _, x := range metricTables() {
		for _, d := range x.defs {
			if slices.Contains(names, d.Name) {
				t.Errorf("%s twice", d.Name)
			}
			names = append(names, d.Name)
			if !strings.HasPrefix(d.Name, "rebound_") || strings.HasSuffix(d.Name, "_total") != d.Counter || !strings.HasSuffix(d.Help, ".") {
				t.Errorf("%+v", d)
			}
		}
	}
	rules, err := os.ReadFile(filepath.Join("..", "..", "docs", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range regexp.MustCompile(`rebound_[a-z_]+`).FindAllString(string(rules), -1) {
		if !slices.Contains(names, n) {
			t.Errorf("alerts.yml names %s", n)
		}
	}
}

// TestMetricsAreServed scrapes a table over HTTP, and demands that a value outside of
// the table fails the scrape.
func TestMetricsAreServed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	bad := false
	src := metrics.Source{Defs: []metrics.Def{{Name: "rebound_x_total", Help: "X.", Counter: true, Labels: []string{"group"}}}, Read: func(_ context.Context, emit metrics.Emit) error {
		emit("rebound_x_total", 3, "web")
		if bad {
			emit("rebound_y", 1)
		}
		return nil
	}}
	done := make(chan error, 1)
	go func() { done <- metrics.Serve(ctx, addr, slog.New(slog.DiscardHandler), src) }()
	scrape := func() (int, string) {
		for {
			resp, err := http.Get("http://" + addr + "/metrics")
			if err != nil {
				select {
				case err := <-done:
					t.Fatalf("serve: %v", err)
				default:
					continue // not yet
				}
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(body)
		}
	}
	if status, body := scrape(); status != http.StatusOK || !strings.Contains(body, `rebound_x_total{group="web"} 3`) || !strings.Contains(body, "# HELP rebound_x_total X.") || !strings.Contains(body, "process_") {
		t.Errorf("%d\n%s", status, body)
	}
	bad = true
	if status, _ := scrape(); status != http.StatusInternalServerError {
		t.Errorf("a metric outside of the table: %d", status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
