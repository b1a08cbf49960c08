package qemu

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/site"
)

// hardware is what QMP says of a machine.
func hardware(t *testing.T, d *Driver, name dr.MachineName, command, args string, into any) {
	t.Helper()
	m := d.at(name)
	rec, err := m.record()
	must(t, err)
	mon, err := m.monitor(rec)
	must(t, err)
	var raw any
	if args != "" {
		must(t, json.Unmarshal([]byte(args), &raw))
	}
	must(t, mon.Run(context.Background(), command, raw, into))
}

// TestTargetSettingsAreReal: the machine that runs at the other site is as its
// settings say, by QEMU's own word.
func TestTargetSettingsAreReal(t *testing.T) {
	needQEMU(t)
	ctx := testContext(t)
	d := openDriver(t, t.TempDir())
	content := make([]byte, 8<<20)
	view := newViewServer(t, content)
	def := tiny("web", 1)
	target := site.Target{Settings: site.TargetSettings{
		Name: "web, at the other site", CPUs: 3, MemoryMiB: 96,
		NICs: []site.NICSettings{{NIC: 0, MAC: site.NewMAC, Address: &dr.Address{IPs: []string{"192.0.2.7/24"}, Gateways: []string{"192.0.2.1"}}}},
	}}
	networks, err := d.Networks(ctx)
	must(t, err)
	there, warnings, err := target.Apply(def, site.TargetOf{Site: "cloud", Networks: networks})
	must(t, err)
	if len(warnings) > 0 {
		t.Error(warnings)
	}
	spec := site.RecoveredSpec{Definition: there, Disks: []site.ViewDisk{{Disk: "disk0", Socket: view.sock, Export: "view"}}}
	name, err := d.StartRecovered(ctx, spec)
	must(t, err)

	var cpus []map[string]any
	hardware(t, d, name, "query-cpus-fast", "", &cpus)
	if len(cpus) != 3 {
		t.Errorf("%d processors, want 3", len(cpus))
	}
	var memory struct {
		Base int64 `json:"base-memory"`
	}
	hardware(t, d, name, "query-memory-size-summary", "", &memory)
	if memory.Base != 96<<20 {
		t.Errorf("%d bytes of memory, want 96 MiB", memory.Base)
	}
	var mac string
	hardware(t, d, name, "qom-get", `{"path": "/machine/peripheral/nic0", "property": "mac"}`, &mac)
	if mac != there.NICs[0].MAC || mac == def.NICs[0].MAC {
		t.Errorf("the card has MAC %s, want %s, which is not %s", mac, there.NICs[0].MAC, def.NICs[0].MAC)
	}
	var shown struct{ Name string }
	hardware(t, d, name, "query-name", "", &shown)
	if shown.Name != "web, at the other site" {
		t.Errorf("the hypervisor shows %q", shown.Name)
	}
	line, err := os.ReadFile(d.at(name).path("command"))
	must(t, err)
	if card := (dr.GuestCard{MAC: mac, Address: *there.NICs[0].Address}).String(); !strings.Contains(string(line), strings.ReplaceAll(card, ",", ",,")) {
		t.Errorf("the guest is not told of %s", card)
	}
	seen, err := d.Definition(ctx, name)
	must(t, err)
	if seen.Replaced == nil || seen.Replaced.Was.CPUs != 1 {
		t.Errorf("what the settings replaced is forgotten: %+v", seen.Replaced)
	}
}

// TestCardWithoutNetwork: a card that is connected to nothing is there, and
// nothing is behind it.
func TestCardWithoutNetwork(t *testing.T) {
	needQEMU(t)
	ctx := testContext(t)
	d := openDriver(t, t.TempDir())
	def := tiny("web", 1)
	def.NICs[0].Network = ""
	must(t, d.Create(ctx, def))
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	var text string
	hardware(t, d, "web", "human-monitor-command", `{"command-line": "info network"}`, &text)
	if !strings.Contains(text, "hub 0") || strings.Contains(text, "user") || strings.Contains(text, "tap") || strings.Count(text, "\\ ") > 1 {
		t.Errorf("the card is connected to:\n%s", text)
	}
}

func TestBootOrder(t *testing.T) {
	def := dr.Definition{Disks: []dr.DiskSpec{{ID: "a"}, {ID: "b"}, {ID: "c"}}, BootOrder: []dr.DiskID{"c", "a"}}
	for i, want := range []int{1, 2, 0} {
		if got := bootIndex(def, i); got != want {
			t.Errorf("disk %s has place %d, want %d", def.Disks[i].ID, got, want)
		}
	}
	def.BootOrder = nil
	for i := range def.Disks {
		if got := bootIndex(def, i); got != i {
			t.Errorf("without an order, disk %d has place %d", i, got)
		}
	}
}

// TestScratchLeavesNothing: not even a machine that runs, and the site's own
// machines are not seen from there.
func TestScratchLeavesNothing(t *testing.T) {
	needQEMU(t)
	ctx := testContext(t)
	d := openDriver(t, t.TempDir())
	must(t, d.Create(ctx, tiny("web", 1)))
	s, done, err := d.Scratch(ctx)
	must(t, err)
	must(t, s.Create(ctx, tiny("web", 2)))
	must(t, s.Start(ctx, "web", site.StartOptions{}))
	p, err := s.(*Driver).at("web").process()
	must(t, err)
	must(t, done())
	if !p.ended() {
		t.Error("the scratch machine runs on")
	}
	p.close()
	left, err := os.ReadDir(d.Dir())
	must(t, err)
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "scratch-") {
			t.Errorf("%s is left", e.Name())
		}
	}
	m, err := d.Machine(ctx, "web")
	must(t, err)
	if len(m.Definition.Disks) != 1 || m.State != site.Off {
		t.Errorf("the site's own machine is %+v", m)
	}
}
