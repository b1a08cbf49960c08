package gateway

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/site/fake"
)

// prober is a gateway with one machine, as far as evidence needs it.
func prober(t *testing.T) *Gateway {
	t.Helper()
	d := fake.New(fake.Options{Dir: t.TempDir()})
	err := d.Create(t.Context(), dr.Definition{
		Name: "web", UUID: "00000000-0000-4000-8000-000000000001", CPUs: 1, MemoryMiB: 64, Firmware: dr.BIOS, MachineType: "q35",
		Disks: []dr.DiskSpec{{ID: "disk0", Bus: "virtio", SizeBytes: 1 << 20}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Gateway{cfg: Config{Name: "gw", Site: "home", Dir: t.TempDir()}, driver: d}
}

// TestProbes asks real ports, servers and programs.
func TestProbes(t *testing.T) {
	g := prober(t)
	if err := g.driver.Start(t.Context(), "web", site.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.driver.Stop(t.Context(), "web", site.Hard, 0) })
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	shut, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shut.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/web" {
			http.Error(w, "not here", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	scripts := filepath.Join(g.cfg.Dir, "scripts")
	if err := os.Mkdir(scripts, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"good": "[ \"$1 $REBOUND_MACHINE $REBOUND_SITE\" = 'web web home' ]", "bad": "echo no database; exit 3", "slow": "sleep 60 & wait",
	} {
		if err := os.WriteFile(filepath.Join(scripts, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		probe dr.Probe
		fails string // "": passes
	}{
		{dr.Probe{TCP: open.Addr().String()}, ""},
		{dr.Probe{TCP: shut.Addr().String()}, "refused"},
		{dr.Probe{HTTP: server.URL + "/{machine}"}, ""},
		{dr.Probe{HTTP: server.URL + "/other"}, "503"},
		{dr.Probe{Command: "good {machine}"}, ""},
		{dr.Probe{Command: "bad"}, "exit status 3: no database"},
		{dr.Probe{Command: "slow", Seconds: 1}, "longer than 1s"},
		{dr.Probe{Command: "missing"}, "no script"},
	} {
		got, err := g.MachineEvidence(t.Context(), control.EvidenceRequest{Machine: "web", Probes: []dr.Probe{c.probe}})
		if err != nil || got.State != site.Running || got.BootedAt.IsZero() || !got.GuestAgent {
			t.Errorf("%s: %+v, %v", c.probe, got, err)
		}
		if c.fails == "" && (len(got.Passed) != 1 || len(got.Failed) != 0) {
			t.Errorf("%s: %+v", c.probe, got)
		}
		if c.fails != "" && (len(got.Passed) != 0 || len(got.Failed) != 1 || !strings.Contains(got.Failed[0], c.fails)) {
			t.Errorf("%s: %+v, want %q", c.probe, got, c.fails)
		}
	}
	for _, p := range []dr.Probe{{}, {Command: "../good"}, {Command: "a/b"}, {TCP: "x", HTTP: "y"}} {
		_, err := g.MachineEvidence(t.Context(), control.EvidenceRequest{Machine: "web", Probes: []dr.Probe{p}})
		if !problem.HasCode(err, problem.InvalidRequest) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestEvidenceOfAMachineThatIsOff(t *testing.T) {
	g := prober(t)
	got, err := g.MachineEvidence(t.Context(), control.EvidenceRequest{Machine: "web"})
	if err != nil || got.State != site.Off || got.GuestAgent || got.GuestAgentSays == "" || !got.BootedAt.IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := g.MachineEvidence(t.Context(), control.EvidenceRequest{Machine: "nobody"}); !problem.HasCode(err, problem.UnknownMachine) {
		t.Errorf("a machine that is not there: %v", err)
	}
	all, err := g.reportMachines(t.Context())
	if err != nil || !slices.ContainsFunc(all, func(m control.MachineReport) bool { return m.Machine == "web" && m.BootedAt.IsZero() }) {
		t.Errorf("reported %+v, %v", all, err)
	}
}
