package sitetest

import (
	"bytes"
	"os"
	"slices"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// boot returns the driver's ability to run machines on views, or skips.
func (s *suite) boot() site.BootFromView {
	s.Helper()
	b, ok := s.d.(site.BootFromView)
	if !ok || !s.d.Capabilities().BootFromView || s.f.View == nil {
		s.Skip("the driver cannot boot from views")
	}
	return b
}

// viewContent is what a view of the suite holds.
func viewContent(disk dr.DiskID) []byte {
	content := make([]byte, diskSize)
	copy(content[1<<20:], "view of "+string(disk))
	return content
}

func (s *suite) spec(name dr.MachineName) site.RecoveredSpec {
	s.Helper()
	spec := site.RecoveredSpec{Definition: s.definition(name)}
	spec.Definition.MemoryMiB = 40
	for _, disk := range spec.Definition.Disks {
		socket, export := s.f.View(s.T, viewContent(disk.ID))
		spec.Disks = append(spec.Disks, site.ViewDisk{Disk: disk.ID, Socket: socket, Export: export})
	}
	return spec
}

func (s *suite) recovered() {
	b := s.boot()
	s.must(s.d.Create(s.ctx, s.definition("web")))
	s.must(s.d.SetStandby(s.ctx, "web", true))
	spec := s.spec("web")
	for range 2 {
		name, err := b.StartRecovered(s.ctx, spec)
		s.must(err)
		if name != "web" {
			s.Fatalf("got name %s", name)
		}
	}
	s.state("web", site.Running)
	_, err := s.d.OpenDisk(s.ctx, "web", "disk0")
	s.code(err, problem.MachineInUse)
	other := spec
	other.Disks = slices.Clone(spec.Disks)
	other.Disks[0], other.Disks[1] = spec.Disks[1], spec.Disks[0]
	other.Disks[0].Disk, other.Disks[1].Disk = "disk0", "disk1"
	_, err = b.StartRecovered(s.ctx, other)
	s.code(err, problem.MachineRunning)
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
	s.state("web", site.Off)
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{})) // on its overlay again
	s.state("web", site.Running)
	for range 2 {
		s.must(b.DiscardRecovered(s.ctx, "web"))
	}
	s.must(b.DiscardRecovered(s.ctx, "nobody"))
	m, err := s.d.Machine(s.ctx, "web")
	s.must(err)
	if m.State != site.Off || !m.Standby || m.Definition.MemoryMiB != 32 {
		s.Fatalf("after discarding: %+v", m)
	}
	if got := s.read("web", "disk0", diskSize, 0); !bytes.Equal(got, make([]byte, diskSize)) {
		s.Fatal("the standby's own disk was written")
	}
	_, err = b.StartRecovered(s.ctx, other) // now it may
	s.must(err)
	s.must(b.DiscardRecovered(s.ctx, "web"))
}

func (s *suite) recoveredTest() {
	b := s.boot()
	s.must(s.d.Create(s.ctx, s.definition("web")))
	s.must(s.d.SetStandby(s.ctx, "web", true))
	spec := s.spec("web")
	spec.Test, spec.Network = true, "drill"
	name, err := b.StartRecovered(s.ctx, spec)
	s.must(err)
	if name != "web-test" {
		s.Fatalf("got name %s", name)
	}
	m, err := s.d.Machine(s.ctx, "web-test")
	s.must(err)
	if m.State != site.Running || m.Definition.Name != "web-test" {
		s.Fatalf("got %+v", m)
	}
	s.state("web", site.Off)
	isDrill := func(n site.Network) bool { return n.Name == "drill" && n.Test }
	networks, err := s.d.Networks(s.ctx)
	s.must(err)
	if !slices.ContainsFunc(networks, isDrill) {
		s.Errorf("networks %v lack the test network", networks)
	}
	s.code(b.CommitRecovered(s.ctx, "web-test", nil, nil), problem.OperationNotAllowed)
	s.must(b.DiscardRecovered(s.ctx, "web-test"))
	_, err = s.d.Machine(s.ctx, "web-test")
	s.code(err, problem.UnknownMachine)
	networks, err = s.d.Networks(s.ctx)
	s.must(err)
	if slices.ContainsFunc(networks, isDrill) {
		s.Error("the test network stays without members")
	}
}

func (s *suite) commit() {
	b := s.boot()
	s.must(s.d.Create(s.ctx, s.definition("web")))
	s.must(s.d.SetStandby(s.ctx, "web", true))
	bases := map[dr.DiskID]string{}
	for _, disk := range s.definition("web").Disks {
		path, err := s.d.DiskPath(s.ctx, "web", disk.ID)
		s.must(err)
		s.must(os.WriteFile(path, viewContent(disk.ID), 0o600))
		bases[disk.ID] = path
	}
	s.code(b.CommitRecovered(s.ctx, "web", bases, nil), problem.OperationNotAllowed)
	spec := s.spec("web")
	_, err := b.StartRecovered(s.ctx, spec)
	s.must(err)
	// A base that somebody holds cannot be taken; trying harms nothing.
	held, err := block.OpenFile(bases["disk0"], block.FileOptions{Lock: true})
	s.must(err)
	s.code(b.CommitRecovered(s.ctx, "web", bases, nil), problem.MachineInUse)
	s.must(held.Close())
	s.state("web", site.Running)
	for range 2 {
		s.must(b.CommitRecovered(s.ctx, "web", bases, nil))
	}
	s.reopen()
	m, err := s.d.Machine(s.ctx, "web")
	s.must(err)
	if m.State != site.Running || m.Standby || m.Definition.MemoryMiB != 40 {
		s.Fatalf("after commit: %+v", m)
	}
	if c, ok := s.d.(site.Capturer); ok && s.d.Capabilities().Capturer {
		bitmaps, err := c.Bitmaps(s.ctx, "web")
		s.must(err)
		if !slices.Contains(bitmaps, site.CommitBitmap) {
			s.Errorf("bitmaps %v lack %s", bitmaps, site.CommitBitmap)
		}
	}
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
	for _, disk := range m.Definition.Disks {
		if got := s.read("web", disk.ID, diskSize, 0); !bytes.Equal(got, viewContent(disk.ID)) {
			s.Errorf("disk %s differs from its view though no guest wrote to it", disk.ID)
		}
	}
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	s.state("web", site.Running)
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
	s.must(s.d.Delete(s.ctx, "web", false))
}
