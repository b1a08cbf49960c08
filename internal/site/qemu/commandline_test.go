package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden command lines")

func goldenDefinition() dr.Definition {
	return dr.Definition{
		Name: "web", UUID: "6f1c5a52-6d5f-4a53-9b7f-0d6b3a2f9c11", CPUs: 2, MemoryMiB: 512, MachineType: "q35",
		NICs: []dr.NIC{
			{MAC: "52:54:00:12:34:56", Network: "default", Model: "virtio-net-pci"},
			{MAC: "52:54:00:12:34:57", Network: "lan", Model: "e1000"},
		},
		Disks: []dr.DiskSpec{
			{ID: "disk0", Bus: "virtio", Serial: "root", SizeBytes: 1 << 30},
			{ID: "disk1", Bus: "scsi", SizeBytes: 1 << 30},
			{ID: "disk2", Bus: "sata", SizeBytes: 1 << 30},
			{ID: "disk3", Bus: "sata", SizeBytes: 1 << 30, ReadOnly: true},
		},
	}
}

// The command lines of all kinds of machines, as people would see them in the
// file "command". A change here changes the hardware that guests find.
func TestCommandLines(t *testing.T) {
	view := site.ViewDisk{Disk: "disk0", Socket: "/run/view.sock", Export: "web/disk0"}
	cases := map[string]func(*launch){
		"bios": func(l *launch) { l.def.Firmware = dr.BIOS },
		"uefi": func(l *launch) {
			l.def.Firmware, l.firmware, l.nvram = dr.UEFI, "/fw/CODE.fd", "/ds/machines/web/nvram.fd"
		},
		"paused": func(l *launch) { l.paused, l.accel = true, "kvm" },
		"on-view": func(l *launch) {
			l.disks[0].raw, l.disks[0].overlay, l.disks[0].view, l.disks[0].reconnect = "", "/ds/machines/web/disk0.overlay", &view, 3600
		},
		"committing": func(l *launch) {
			l.disks[0].overlay, l.disks[0].direct = "/ds/machines/web/disk0.overlay", true
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			def := goldenDefinition()
			l := &launch{
				dir: "/ds/machines/web", def: def, accel: "tcg", cpu: "max",
				netdevs: []string{Network{Name: "default", Kind: UserNetwork, Restrict: true, CIDR: "10.1.0.0/24", Forward: []string{"tcp:10.1.0.9:7-tcp:127.0.0.1:7"}}.userNetdev("net0"), "tap,id=net1,fd=3"},
				macs:    []string{def.NICs[0].MAC, testMAC(def.NICs[1].MAC)},
			}
			for _, spec := range def.Disks {
				l.disks = append(l.disks, launchDisk{spec: spec, raw: "/ds/machines/web/" + string(spec.ID) + ".raw"})
			}
			change(l)
			got := shellLine(l.dir, "qemu-system-x86_64", l.args())
			file := filepath.Join("testdata", "command-"+name+".golden")
			if *updateGolden {
				must(t, os.WriteFile(file, []byte(got), 0o600))
			}
			want, err := os.ReadFile(file)
			must(t, err)
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"plain,a=b": "plain,a=b", "": "''", "two words": "'two words'", `{"a":"it's"}`: `'{"a":"it'\''s"}'`, "$HOME": "'$HOME'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		code   problem.Code
		change func(*dr.Definition)
	}{
		"mac":          {problem.InvalidRequest, func(d *dr.Definition) { d.NICs[0].MAC = "53:54:00:12:34:56" }},
		"model":        {problem.InvalidRequest, func(d *dr.Definition) { d.NICs[0].Model = "virtio-net-pci,romfile=/etc/shadow" }},
		"machine type": {problem.InvalidRequest, func(d *dr.Definition) { d.MachineType = "q35,dumpdtb=/x" }},
		"uuid":         {problem.InvalidRequest, func(d *dr.Definition) { d.UUID = "one" }},
		"firmware":     {problem.InvalidRequest, func(d *dr.Definition) { d.Firmware = "" }},
		"disk id":      {problem.DiskNotSupported, func(d *dr.Definition) { d.Disks[0].ID = "../../x" }},
		"disk twice":   {problem.DiskNotSupported, func(d *dr.Definition) { d.Disks[1].ID = "disk0" }},
		"bus":          {problem.DiskNotSupported, func(d *dr.Definition) { d.Disks[0].Bus = "floppy" }},
		"serial":       {problem.DiskNotSupported, func(d *dr.Definition) { d.Disks[0].Serial = "a,b" }},
	} {
		def := goldenDefinition()
		def.Firmware = dr.BIOS
		must(t, validate(def))
		c.change(&def)
		if err := validate(def); !problem.HasCode(err, c.code) {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
}

func TestNetworksAreChecked(t *testing.T) {
	for name, n := range map[string]Network{
		"kind":     {Name: "a", Kind: "magic"},
		"no name":  {Kind: UserNetwork},
		"bridge":   {Name: "a", Kind: BridgeNetwork},
		"cidr":     {Name: "a", Kind: UserNetwork, CIDR: "10.0.0.0"},
		"restrict": {Name: "a", Kind: BridgeNetwork, Bridge: "br0", Restrict: true},
	} {
		if _, err := New(Config{Dir: t.TempDir(), Networks: []Network{n}}); err == nil {
			t.Errorf("%s: %+v was taken", name, n)
		}
	}
	n := Network{Name: "a", Kind: UserNetwork}
	if _, err := New(Config{Dir: t.TempDir(), Networks: []Network{n, n}}); err == nil {
		t.Error("a network was taken twice")
	}
}
