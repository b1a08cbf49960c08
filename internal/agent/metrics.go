package agent

import (
	"context"
	"sync/atomic"
	"time"

	"rebound/internal/metrics"
)

// Numbers are what an agent counts; give them to it with Config.Numbers.
type Numbers struct {
	reports, failures atomic.Int64
	last              atomic.Int64 // Unix milliseconds of the last success
}

// MetricDefs is the table of what an agent tells Prometheus.
func MetricDefs() []metrics.Def {
	return []metrics.Def{
		{Name: "rebound_agent_reports_total", Help: "Registrations and heartbeats that the vault took.", Counter: true},
		{Name: "rebound_agent_failures_total", Help: "Reports that failed.", Counter: true},
		{Name: "rebound_agent_last_report_timestamp_seconds", Help: "When the vault last took a report; 0 for never."},
	}
}

// MetricSource reads the numbers.
func (n *Numbers) MetricSource() metrics.Source {
	return metrics.Source{Defs: MetricDefs(), Read: func(_ context.Context, emit metrics.Emit) error {
		emit("rebound_agent_reports_total", float64(n.reports.Load()))
		emit("rebound_agent_failures_total", float64(n.failures.Load()))
		emit("rebound_agent_last_report_timestamp_seconds", float64(n.last.Load())/1000)
		return nil
	}}
}

// count notes how a report went; nil Numbers count nothing.
func (n *Numbers) count(err error) {
	switch {
	case n == nil:
	case err != nil:
		n.failures.Add(1)
	default:
		n.reports.Add(1)
		n.last.Store(time.Now().UnixMilli())
	}
}
