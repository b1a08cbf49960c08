package vault_test

import (
	"strings"
	"testing"

	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// connected is a lab whose group "app" is one machine with cards in two
// networks, of which the other site has one.
func connected(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.home.SetNetworks("lan", "backup")
	l.cloud.SetNetworks("lan", "dmz", "slow")
	l.home.AddDefinition(dr.Definition{
		Name: "vm1", UUID: "uuid-vm1", CPUs: 4, MemoryMiB: 2048, Firmware: dr.BIOS, MachineType: "q35",
		NICs:  []dr.NIC{{MAC: "52:54:00:00:00:01", Network: "lan", Model: "virtio-net-pci"}, {MAC: "52:54:00:00:00:02", Network: "backup", Model: "virtio-net-pci"}},
		Disks: []dr.DiskSpec{{ID: "disk0", Bus: "virtio", SizeBytes: 1 << 20}},
	})
	l.cloud.AddMachine("other")
	l.startOver(l.home)
	l.startOver(l.cloud)
	l.known("home", "vm1")
	l.known("cloud", "other")
	l.until("the networks are known", func() bool {
		s, err := l.c.Site(t.Context(), "cloud")
		return err == nil && len(s.Networks) == 3
	})
	l.finish(l.c.Protect(t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"vm1"}, To: "cloud", Group: "app"}))
	l.untilState("app", lifecycle.Protected)
	return l
}

// startOver makes the vault read a gateway's inventory anew.
func (l *lab) startOver(g *controltest.Gateway) {
	l.t.Helper()
	g.Stop()
	l.startGateway(g)
}

func (l *lab) definition(at dr.SiteID) dr.Definition {
	l.t.Helper()
	m, err := l.c.Machine(l.t.Context(), at, "vm1")
	if err != nil {
		l.t.Fatal(err)
	}
	return m.Definition
}

// TestUnmappedNetwork: nothing is shut down for a failover that could not
// connect a machine; the policy may say that it is isolated instead.
func TestUnmappedNetwork(t *testing.T) {
	t.Parallel()
	l := connected(t)
	app := client.GroupTarget("app")
	if _, err := l.c.DryRun(t.Context(), app, lifecycle.Failover, rest.OperationRequest{}); !problem.HasCode(err, problem.NetworkNotMapped) || !strings.Contains(err.Error(), "card 1") {
		t.Errorf("the dry run says %v", err)
	}
	job := l.operate(lifecycle.Failover, rest.OperationRequest{}, rest.JobFailed)
	if job.Errors[0].Code != problem.NetworkNotMapped {
		t.Errorf("the failover failed with %+v", job.Errors)
	}
	if n := l.world.Count("StopMachine", ""); n > 0 {
		t.Errorf("%d machines were stopped for a failover that could not be", n)
	}
	l.untilState("app", lifecycle.Protected)

	p, err := l.c.Policy(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	p.UnmappedNetworks = site.IsolateUnmapped
	if _, err := l.c.PutPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dry, err := l.c.DryRun(t.Context(), app, lifecycle.Failover, rest.OperationRequest{})
	if err != nil || !strings.Contains(strings.Join(dry.Warnings, "\n"), "card 1 of vm1 is not connected") {
		t.Fatalf("the dry run warns of %q, %v", dry.Warnings, err)
	}
	job = l.operate(lifecycle.Failover, rest.OperationRequest{}, rest.JobWarning)
	if !strings.Contains(strings.Join(job.Warnings, "\n"), "card 1 of vm1 is not connected") {
		t.Errorf("the job warns of %q", job.Warnings)
	}
	l.startOver(l.cloud)
	l.until("the machine runs with one card", func() bool {
		nics := l.definition("cloud").NICs
		return len(nics) == 2 && nics[0].Network == "lan" && nics[1].Network == ""
	})
}

// TestTargetSettingsThereAndBack: over the API, through a failover and home
// again.
func TestTargetSettingsThereAndBack(t *testing.T) {
	t.Parallel()
	l := connected(t)
	mapping := rest.NetworkMapping{
		ID: "backup", From: rest.NetworkMapEnd{Site: "home", Network: "backup"},
		To: rest.NetworkMapEnd{Site: "cloud", Network: "slow", TestNetwork: "bubble"},
	}
	if _, err := l.c.PutMapping(t.Context(), mapping); err != nil {
		t.Fatal(err)
	}
	want := rest.ItemSettings{
		Item: "vm1",
		Recovery: &site.TargetSettings{CPUs: 2, MemoryMiB: 1024, Name: "vm1-dr", NICs: []site.NICSettings{
			{NIC: 0, Network: "dmz", TestNetwork: "bubble", MAC: site.NewMAC, Address: &dr.Address{IPs: []string{"192.0.2.7/24"}, Gateways: []string{"192.0.2.1"}, DNS: []string{"192.0.2.53"}}},
		}},
	}
	if _, err := l.c.PutItemSettings(t.Context(), want); err != nil {
		t.Fatal(err)
	}

	l.operate(lifecycle.TestFailover, rest.OperationRequest{})
	l.startOver(l.cloud)
	l.known("cloud", "vm1-test")
	test, err := l.c.Machine(t.Context(), "cloud", "vm1-test")
	if err != nil || test.Definition.NICs[0].Network != "bubble" || test.Definition.NICs[1].Network != "bubble" {
		t.Errorf("the test machine is in %+v, %v", test.Definition.NICs, err)
	}
	l.operate(lifecycle.TestCleanup, rest.OperationRequest{})

	l.operate(lifecycle.Failover, rest.OperationRequest{})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.startOver(l.cloud)
	l.until("the machine is as its settings say", func() bool { return l.definition("cloud").CPUs == 2 })
	def := l.definition("cloud")
	if def.MemoryMiB != 1024 || def.Label != "vm1-dr" || def.NICs[0].Network != "dmz" || def.NICs[1].Network != "slow" ||
		def.NICs[0].MAC == "52:54:00:00:00:01" || def.NICs[1].MAC != "52:54:00:00:00:02" || def.NICs[0].Address == nil {
		t.Errorf("at the cloud: %+v", def)
	}

	l.operate(lifecycle.Reprotect, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.startOver(l.home)
	l.until("the machine is home", func() bool { return l.definition("home").CPUs == 4 })
	def = l.definition("home")
	if def.MemoryMiB != 2048 || def.Label != "" || def.NICs[0].Network != "lan" || def.NICs[1].Network != "backup" || def.NICs[0].MAC != "52:54:00:00:00:01" || def.NICs[0].Address != nil {
		t.Errorf("home again: %+v", def)
	}
}

func TestBadMappings(t *testing.T) {
	t.Parallel()
	l := connected(t)
	good := rest.NetworkMapping{ID: "m", From: rest.NetworkMapEnd{Site: "home", Network: "backup"}, To: rest.NetworkMapEnd{Site: "cloud", Network: "slow"}}
	if _, err := l.c.PutMapping(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		code   problem.Code
		change func(*rest.NetworkMapping)
	}{
		"unknown site":         {problem.UnknownSite, func(m *rest.NetworkMapping) { m.To.Site = "moon" }},
		"unknown network":      {problem.UnknownNetwork, func(m *rest.NetworkMapping) { m.To.Network = "fast" }},
		"one site":             {problem.InvalidRequest, func(m *rest.NetworkMapping) { m.To.Site = "home" }},
		"production as a test": {problem.InvalidRequest, func(m *rest.NetworkMapping) { m.To.TestNetwork = "dmz" }},
		"the same from":        {problem.NameTaken, func(m *rest.NetworkMapping) { m.ID = "n"; m.To.Network = "dmz" }},
		"the same to":          {problem.NameTaken, func(m *rest.NetworkMapping) { m.ID = "n"; m.From.Network = "lan" }},
		"a bad name":           {problem.InvalidName, func(m *rest.NetworkMapping) { m.ID = "n m" }},
	} {
		bad := good
		c.change(&bad)
		if _, err := l.c.PutMapping(t.Context(), bad); !problem.HasCode(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	two := good
	two.ID, two.From.Network, two.OneWay = "n", "lan", true
	if _, err := l.c.PutMapping(t.Context(), two); err != nil {
		t.Errorf("two networks to one, one way: %v", err)
	}
	all, err := l.c.Mappings(t.Context())
	if err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := l.c.DeleteMapping(t.Context(), "m"); err != nil {
		t.Error(err)
	}
	if err := l.c.DeleteMapping(t.Context(), "m"); !problem.HasCode(err, problem.UnknownMapping) {
		t.Errorf("deleted twice: %v", err)
	}
}

func TestBadTargetSettings(t *testing.T) {
	t.Parallel()
	l := connected(t)
	nic := func(n site.NICSettings) site.TargetSettings { return site.TargetSettings{NICs: []site.NICSettings{n}} }
	for name, c := range map[string]struct {
		code problem.Code
		set  site.TargetSettings
	}{
		"too many processors":    {problem.TargetNotPossible, site.TargetSettings{CPUs: 65}},
		"too much memory":        {problem.TargetNotPossible, site.TargetSettings{MemoryMiB: 1<<20 + 1}},
		"a name that is taken":   {problem.NameTaken, site.TargetSettings{Name: "other"}},
		"a network it lacks":     {problem.UnknownNetwork, nic(site.NICSettings{Network: "backup"})},
		"production as a test":   {problem.InvalidRequest, nic(site.NICSettings{TestNetwork: "lan"})},
		"a card it lacks":        {problem.InvalidRequest, nic(site.NICSettings{NIC: 2})},
		"a card twice":           {problem.InvalidRequest, site.TargetSettings{NICs: []site.NICSettings{{}, {}}}},
		"an address":             {problem.InvalidRequest, nic(site.NICSettings{Address: &dr.Address{IPs: []string{"192.0.2.7"}}})},
		"a gateway":              {problem.InvalidRequest, nic(site.NICSettings{Address: &dr.Address{IPs: []string{"192.0.2.7/24"}, Gateways: []string{"gw"}}})},
		"a disk it lacks":        {problem.UnknownDisk, site.TargetSettings{BootOrder: []dr.DiskID{"disk7"}}},
		"a disk twice":           {problem.InvalidRequest, site.TargetSettings{BootOrder: []dr.DiskID{"disk0", "disk0"}}},
		"a word for the address": {problem.InvalidRequest, nic(site.NICSettings{MAC: "52:54:00:00:00:09"})},
	} {
		_, err := l.c.PutItemSettings(t.Context(), rest.ItemSettings{Item: "vm1", Recovery: &c.set})
		if !problem.HasCode(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := l.c.ItemSettings(t.Context(), "vm1")
	if err != nil || got.Recovery != nil || got.Home != nil {
		t.Errorf("after refusals the settings are %+v, %v", got, err)
	}
	if _, err := l.c.ItemSettings(t.Context(), "nobody"); !problem.HasCode(err, problem.UnknownItem) {
		t.Errorf("settings of nobody: %v", err)
	}
}
