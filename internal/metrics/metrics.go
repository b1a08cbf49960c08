// Package metrics serves the numbers of a process in the text format of Prometheus.
// Each process has one table of what it tells and one function that reads it when
// it is asked: nothing is counted, locked or allocated for a metric between two
// scrapes. It knows nothing of what the numbers mean.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Def is one metric. Names end in their unit; counters in _total.
type Def struct {
	Name, Help string
	Counter    bool
	Labels     []string
}

// Emit gives the value of a metric of the table, with the values of its labels in
// their order.
type Emit func(name string, value float64, labels ...string)

// Source is a table with the function that reads it.
type Source struct {
	Defs []Def
	// Read is called at each scrape; an error fails the scrape.
	Read func(ctx context.Context, emit Emit) error
}

// collector makes a prometheus.Collector of a source.
type collector struct {
	src   Source
	descs map[string]*prometheus.Desc
	kinds map[string]prometheus.ValueType
}

func newCollector(src Source) *collector {
	c := &collector{src: src, descs: map[string]*prometheus.Desc{}, kinds: map[string]prometheus.ValueType{}}
	for _, d := range src.Defs {
		c.descs[d.Name] = prometheus.NewDesc(d.Name, d.Help, d.Labels, nil)
		c.kinds[d.Name] = prometheus.GaugeValue
		if d.Counter {
			c.kinds[d.Name] = prometheus.CounterValue
		}
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.src.Defs {
		ch <- c.descs[d.Name]
	}
}

// readTimeout bounds one reading of a source.
const readTimeout = 10 * time.Second

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	err := c.src.Read(ctx, func(name string, v float64, labels ...string) {
		d, ok := c.descs[name]
		if !ok {
			ch <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(errors.New(name)), fmt.Errorf("metric %s is not in the table", name))
			return
		}
		m, err := prometheus.NewConstMetric(d, c.kinds[name], v, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(d, err)
		}
		ch <- m
	})
	if err != nil && len(c.src.Defs) > 0 {
		ch <- prometheus.NewInvalidMetric(c.descs[c.src.Defs[0].Name], err)
	}
}

// Handler serves the sources, with the numbers of the Go runtime and the process.
func Handler(sources ...Source) (http.Handler, error) {
	reg := prometheus.NewRegistry()
	all := []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}
	for _, s := range sources {
		all = append(all, newCollector(s))
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}), nil
}

// Serve answers GET /metrics on addr until ctx ends. Nobody is asked who he is: the
// address is for a loopback or a network that is trusted.
func Serve(ctx context.Context, addr string, log *slog.Logger, sources ...Source) error {
	h, err := Handler(sources...)
	if err != nil {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	log.Info("metrics", "address", ln.Addr().String())
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// Text reads the sources once, in the text format.
func Text(ctx context.Context, sources ...Source) ([]byte, error) {
	h, err := Handler(sources...)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		return nil, errors.New("read metrics: " + rec.Body.String())
	}
	return rec.Body.Bytes(), nil
}
