package site_test

import (
	"reflect"
	"strings"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

func homeDefinition() dr.Definition {
	return dr.Definition{
		Name: "web", CPUs: 4, MemoryMiB: 4096,
		NICs:  []dr.NIC{{MAC: "52:54:00:00:00:01", Network: "lan"}, {MAC: "52:54:00:00:00:02", Network: "backup"}},
		Disks: []dr.DiskSpec{{ID: "disk0"}, {ID: "disk1"}},
	}
}

func at(id dr.SiteID, networks ...string) site.TargetOf {
	t := site.TargetOf{Site: id}
	for _, n := range networks {
		t.Networks = append(t.Networks, site.Network{Name: n, Kind: "bridge"})
	}
	return t
}

func cloudTarget() site.Target {
	return site.Target{
		Settings: site.TargetSettings{
			Name: "web-dr", CPUs: 1, MemoryMiB: 512, BootOrder: []dr.DiskID{"disk1"},
			NICs: []site.NICSettings{{NIC: 0, MAC: site.NewMAC, Address: &dr.Address{IPs: []string{"192.0.2.7/24"}}}, {NIC: 1, Network: "slow"}},
		},
		Networks: map[string]site.MappedNetwork{"lan": {Network: "dmz", Test: "bubble"}, "backup": {Network: "fast"}},
	}
}

// TestTargetSettingsThereAndBack: settings win over mappings, and what they
// replaced is home again after a failback, but for what somebody changed.
func TestTargetSettingsThereAndBack(t *testing.T) {
	home := homeDefinition()
	there, warnings, err := cloudTarget().Apply(home, at("cloud", "dmz", "slow", "fast"))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if there.Label != "web-dr" || there.CPUs != 1 || there.MemoryMiB != 512 || there.Name != "web" {
		t.Errorf("at the cloud: %+v", there)
	}
	if n := there.NICs[0]; n.Network != "dmz" || n.MAC == home.NICs[0].MAC || n.Address == nil {
		t.Errorf("card 0 at the cloud: %+v", n)
	}
	if n := there.NICs[1]; n.Network != "slow" || n.MAC != home.NICs[1].MAC {
		t.Errorf("card 1 at the cloud: %+v", n)
	}
	if again, _, _ := cloudTarget().Apply(home, at("cloud", "dmz", "slow", "fast")); !reflect.DeepEqual(again, there) {
		t.Error("the same request gave another machine")
	}
	if home.NICs[0].Network != "lan" {
		t.Error("the definition of the moment was changed")
	}

	back, _, err := site.Target{}.Apply(there, at("home", "lan", "backup"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back.Shape(), home.Shape()) || back.Replaced != nil {
		t.Errorf("home again: %+v, was %+v", back.Shape(), home.Shape())
	}
	there.CPUs = 2 // by hand, at the cloud
	if back, _, _ = (site.Target{}).Apply(there, at("home", "lan", "backup")); back.CPUs != 2 || back.MemoryMiB != 4096 {
		t.Errorf("home again with %d processors, %d MiB", back.CPUs, back.MemoryMiB)
	}
}

func TestUnmappedNetworks(t *testing.T) {
	def := homeDefinition()
	_, _, err := site.Target{}.Apply(def, at("cloud", "lan"))
	if !problem.HasCode(err, problem.NetworkNotMapped) || !strings.Contains(err.Error(), "card 1") {
		t.Errorf("a network that is nowhere: %v", err)
	}
	if got := (site.Target{}).Missing(def, at("cloud", "lan")); len(got) != 1 || got[0] != "card 1 of web (backup)" {
		t.Errorf("missing: %q", got)
	}
	if got := (site.Target{}).Missing(def, at("cloud", "lan", "backup")); len(got) > 0 {
		t.Errorf("missing though it is there: %q", got)
	}
	out, warnings, err := site.Target{Unmapped: site.IsolateUnmapped}.Apply(def, at("cloud", "lan"))
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "card 1") {
		t.Fatal(warnings, err)
	}
	if out.NICs[0].Network != "lan" || out.NICs[1].Network != "" {
		t.Errorf("cards: %+v", out.NICs)
	}
	if back, _, err := (site.Target{}).Apply(out, at("home", "lan", "backup")); err != nil || back.NICs[1].Network != "backup" {
		t.Errorf("an isolated card came home as %+v, %v", back.NICs, err)
	}
	where := at("cloud", "lan")
	where.Fallback = "any"
	if out, _, err = (site.Target{}).Apply(def, where); err != nil || out.NICs[1].Network != "any" {
		t.Errorf("with the request's network: %+v, %v", out.NICs, err)
	}
	if _, _, err := (site.Target{Settings: site.TargetSettings{BootOrder: []dr.DiskID{"disk9"}}}).Apply(def, where); !problem.HasCode(err, problem.UnknownDisk) {
		t.Errorf("a boot order with a disk that is not there: %v", err)
	}
	if _, warnings, err = (site.Target{Settings: site.TargetSettings{NICs: []site.NICSettings{{NIC: 7}}}}).Apply(def, where); err != nil || len(warnings) != 1 {
		t.Errorf("settings of a card that the moment does not have: %v, %v", warnings, err)
	}
}

func TestNetworkOfATest(t *testing.T) {
	def := homeDefinition()
	def.NICs = def.NICs[:1]
	for name, c := range map[string]struct {
		target   site.Target
		fallback string
		want     string
	}{
		"the request's first": {cloudTarget(), "drill", "drill"},
		"the mapping's":       {cloudTarget(), "", "bubble"},
		"the machine's own": {func() site.Target {
			t := cloudTarget()
			t.Settings.NICs[0].TestNetwork = "mine"
			return t
		}(), "", "mine"},
		"none, though isolated cards are fine": {site.Target{Unmapped: site.IsolateUnmapped}, "", ""},
	} {
		where := at("cloud", "lan", "dmz")
		where.Test, where.Fallback = true, c.fallback
		out, _, err := c.target.Apply(def, where)
		if c.want == "" {
			if !problem.HasCode(err, problem.NetworkNotMapped) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || out.NICs[0].Network != c.want {
			t.Errorf("%s: %+v, %v", name, out.NICs, err)
		}
	}
}
