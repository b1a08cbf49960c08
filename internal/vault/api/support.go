package api

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/control"
	"rebound/internal/logging"
	"rebound/internal/metrics"
	"rebound/internal/vault/monitor"
	"rebound/internal/vault/store"
)

const (
	// supportRows bounds the events, jobs and audit rows of a support bundle.
	supportRows = 2000
	// supportPatience bounds what a gateway may take for its part.
	supportPatience = 20 * time.Second
)

func (s *Server) supportRoute(api huma.API) {
	add(api, route("GET", "/support-bundle", "support-bundle", "Gather what helps to find a fault into one archive (tar.gz)"), func(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
		b, err := s.supportBundle(ctx)
		return rawAnswer(http.StatusOK, "application/gzip", b), err
	})
}

// bundle is an archive that is being written.
type bundle struct {
	tar *tar.Writer
	now time.Time
}

func (b *bundle) add(name string, data []byte) error {
	err := b.tar.WriteHeader(&tar.Header{Name: path.Join("rebound-support", path.Clean("/"+name)), Mode: 0o600, Size: int64(len(data)), ModTime: b.now})
	if err == nil {
		_, err = b.tar.Write(data)
	}
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// show adds a value as JSON without its secrets, or why it could not be read.
func (b *bundle) show(name string, v any, err error) error {
	if err != nil {
		return b.add(name+".error", []byte(err.Error()+"\n"))
	}
	doc, err := json.Marshal(v)
	if err != nil {
		return b.add(name+".error", []byte(err.Error()+"\n"))
	}
	return b.add(name, logging.RedactJSON(doc))
}

func (s *Server) supportBundle(ctx context.Context) ([]byte, error) {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	b := &bundle{tar: tar.NewWriter(zip), now: s.Now().UTC()}
	if err := s.supportVault(ctx, b); err != nil {
		return nil, err
	}
	var gateways []store.Gateway
	err := s.view(ctx, func(tx *store.Tx) (err error) { gateways, err = tx.Gateways(""); return err })
	if err != nil {
		return nil, err
	}
	for _, g := range gateways {
		if err := s.supportGateway(ctx, b, g); err != nil {
			return nil, err
		}
	}
	if err := b.tar.Close(); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return out.Bytes(), nil
}

func (s *Server) supportGateway(ctx context.Context, b *bundle, g store.Gateway) error {
	dir := "gateway-" + string(g.ID)
	g.CertificateSum = ""
	if err := b.show(dir+"/gateway.json", s.gatewayView(g), nil); err != nil {
		return err
	}
	ask, cancel := context.WithTimeout(control.WithPatience(ctx, 0), supportPatience)
	defer cancel()
	files, err := s.Hub.Commands(g.ID).Support(ask)
	if err != nil {
		return b.add(dir+"/not-reached.error", []byte(err.Error()+"\n"))
	}
	for _, f := range files.Files {
		if err := b.add(dir+path.Clean("/"+f.Name), f.Data); err != nil {
			return err
		}
	}
	return nil
}

// supportVault adds the vault's own part.
func (s *Server) supportVault(ctx context.Context, b *bundle) error {
	if err := b.add("vault/log.jsonl", s.Recent.Bytes()); err != nil {
		return err
	}
	text, err := metrics.Text(ctx, s.MetricSource())
	if err != nil {
		return err
	}
	if err := b.add("vault/metrics.txt", text); err != nil {
		return err
	}
	st, err := s.status(ctx, nil)
	if err != nil {
		return err
	}
	if err := b.show("vault/status.json", st.Body, nil); err != nil {
		return err
	}
	return s.view(ctx, func(tx *store.Tx) error {
		for _, part := range []struct {
			name string
			read func() (any, error)
		}{
			{"conditions.json", func() (any, error) { return tx.ConditionHistory(0, supportRows) }},
			{"health-settings.json", func() (any, error) { return monitor.Settings(tx) }},
			{"groups.json", func() (any, error) { return tx.Groups() }},
			{"policies.json", func() (any, error) { return tx.Policies() }},
			{"sites.json", func() (any, error) { return tx.Sites() }},
			{"jobs.json", func() (any, error) { return tx.JobsWhere(store.JobFilter{Limit: supportRows / 10}) }},
			{"webhooks.json", func() (any, error) { return tx.Webhooks() }},
			{"events.json", func() (any, error) { return tx.Events(store.EventFilter{NewestFirst: true, Limit: supportRows}) }},
			{"audit.json", func() (any, error) { return tx.Audit(store.AuditFilter{NewestFirst: true, Limit: supportRows}) }},
		} {
			v, err := part.read()
			if err := b.show("vault/"+part.name, v, err); err != nil {
				return err
			}
		}
		return nil
	})
}
