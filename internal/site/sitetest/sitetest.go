// Package sitetest is the conformance suite of package site: what every driver
// must do, stated as tests. A driver's own tests call Run with a Factory; Check
// runs the same against a site in use, on scratch machines. The
// suite needs no guest operating system: a machine whose disks are empty sits
// in its firmware. It covers Driver and BootFromView; capture needs guests that
// write, and so tests of the driver's own.
package sitetest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// Factory makes what the suite works on.
type Factory struct {
	// New returns a driver over an empty datastore. What it started is
	// stopped by the test's clean-up.
	New func(t T) site.Driver
	// Reopen returns another driver over the same datastore, as after a
	// restart of the gateway, and closes the first; nil when a site has no
	// life beyond its driver.
	Reopen func(t T, d site.Driver) site.Driver
	// View serves content as a read-only view until the test ends; nil
	// leaves out BootFromView.
	View func(t T, content []byte) (socket, export string)
	// Network is a network of the site that machines can start on.
	Network string
}

// diskSize of the suite's machines: room for content at both ends.
const diskSize = 4 << 20

// Run runs the whole suite; R is *testing.T.
func Run[R interface {
	T
	Run(name string, f func(R)) bool
}](t R, f Factory) {
	for _, test := range tests() {
		t.Run(test.name, func(t R) { test.on(context.Background(), t, f) })
	}
}

// test is one promise of the contract.
type test struct {
	name string
	run  func(*suite)
}

// limit bounds one test.
const limit = time.Minute

func (test test) on(ctx context.Context, t T, f Factory) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	test.run(&suite{T: t, f: f, ctx: ctx, d: f.New(t)})
}

func tests() []test {
	return []test{
		{"Inventory", (*suite).inventory},
		{"Create", (*suite).create},
		{"BadDefinitions", (*suite).badDefinitions},
		{"UnknownNames", (*suite).unknownNames},
		{"Power", (*suite).power},
		{"PausedStart", (*suite).pausedStart},
		{"OpenDisk", (*suite).openDisk},
		{"Delete", (*suite).remove},
		{"Update", (*suite).update},
		{"Standby", (*suite).standby},
		{"ManyAtOnce", (*suite).manyAtOnce},
		{"Recovered", (*suite).recovered},
		{"RecoveredTest", (*suite).recoveredTest},
		{"Commit", (*suite).commit},
		{"Freeze", (*suite).freeze},
		{"Console", (*suite).console},
	}
}

type suite struct {
	T
	f   Factory
	ctx context.Context
	d   site.Driver
}

// definition is a small machine of the suite.
func (s *suite) definition(name dr.MachineName) dr.Definition {
	return dr.Definition{
		Name: name, UUID: "0b2f2f8e-40a5-4a4f-8d3c-54a3f5a3c0de", CPUs: 1, MemoryMiB: 32,
		Firmware: dr.BIOS, MachineType: "q35",
		NICs: []dr.NIC{{MAC: "52:54:00:aa:bb:cc", Network: s.f.Network, Model: "virtio-net-pci"}},
		Disks: []dr.DiskSpec{
			{ID: "disk0", Bus: "virtio", Serial: "one", SizeBytes: diskSize},
			{ID: "disk1", Bus: "scsi", SizeBytes: diskSize},
			{ID: "disk2", Bus: "sata", Serial: "three", SizeBytes: diskSize},
		},
	}
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) code(err error, code problem.Code) {
	s.Helper()
	if !problem.HasCode(err, code) {
		s.Fatalf("got %v, want a problem %s", err, code)
	}
}

func (s *suite) state(name dr.MachineName, want site.PowerState) {
	s.Helper()
	m, err := s.d.Machine(s.ctx, name)
	s.must(err)
	if m.State != want {
		s.Fatalf("machine %s is %s, want %s", name, m.State, want)
	}
}

// write puts content on a disk through OpenDisk.
func (s *suite) write(name dr.MachineName, disk dr.DiskID, content []byte, off int64) {
	s.Helper()
	dev, err := s.d.OpenDisk(s.ctx, name, disk)
	s.must(err)
	s.must(dev.WriteAt(s.ctx, content, off))
	s.must(dev.Flush(s.ctx))
	s.must(dev.Close())
}

func (s *suite) read(name dr.MachineName, disk dr.DiskID, n int, off int64) []byte {
	s.Helper()
	dev, err := s.d.OpenDisk(s.ctx, name, disk)
	s.must(err)
	content := make([]byte, n)
	s.must(dev.ReadAt(s.ctx, content, off))
	s.must(dev.Close())
	return content
}

// reopen goes on with a new driver where the site outlives its driver.
func (s *suite) reopen() {
	s.Helper()
	if s.f.Reopen != nil {
		s.d = s.f.Reopen(s.T, s.d)
	}
}

func (s *suite) inventory() {
	list, err := s.d.Machines(s.ctx)
	s.must(err)
	if len(list) != 0 {
		s.Fatalf("an empty site holds %v", list)
	}
	free, total, err := s.d.Room(s.ctx)
	s.must(err)
	if free <= 0 || total < free {
		s.Errorf("room: %d free of %d", free, total)
	}
	networks, err := s.d.Networks(s.ctx)
	s.must(err)
	if !slices.ContainsFunc(networks, func(n site.Network) bool { return n.Name == s.f.Network && !n.Test }) {
		s.Errorf("networks %v lack %s", networks, s.f.Network)
	}
	caps := s.d.Capabilities()
	_, isCapturer := s.d.(site.Capturer)
	_, isBoot := s.d.(site.BootFromView)
	_, isImporter := s.d.(site.Importer)
	if _, isFreezer := s.d.(site.Freezer); caps.Freezer && !isFreezer {
		s.Errorf("capabilities %+v promise more than the driver implements", caps)
	}
	if caps.Capturer && !isCapturer || caps.BootFromView && !isBoot || caps.Importer && !isImporter {
		s.Errorf("capabilities %+v promise more than the driver implements", caps)
	}
	s.must(s.d.Create(s.ctx, s.definition("b")))
	s.must(s.d.Create(s.ctx, s.definition("a")))
	s.reopen()
	list, err = s.d.Machines(s.ctx)
	s.must(err)
	if len(list) != 2 || list[0].Definition.Name != "a" || list[1].Definition.Name != "b" {
		s.Fatalf("got %+v, want machines a and b", list)
	}
}

func (s *suite) create() {
	def := s.definition("web")
	s.must(s.d.Create(s.ctx, def))
	s.must(s.d.Create(s.ctx, def))
	m, err := s.d.Machine(s.ctx, "web")
	s.must(err)
	if m.State != site.Off || m.Standby || m.Imported || m.Definition.MemoryMiB != 32 || len(m.Definition.Disks) != 3 {
		s.Fatalf("got %+v", m)
	}
	if got := s.read("web", "disk2", diskSize, 0); !bytes.Equal(got, make([]byte, diskSize)) {
		s.Error("a new disk is not empty")
	}
	other := def
	other.MemoryMiB = 48
	s.code(s.d.Create(s.ctx, other), problem.NameTaken)
}

func (s *suite) badDefinitions() {
	for name, c := range map[string]struct {
		code   problem.Code
		change func(*dr.Definition)
	}{
		"name":   {problem.InvalidName, func(d *dr.Definition) { d.Name = "../evil" }},
		"empty":  {problem.InvalidName, func(d *dr.Definition) { d.Name = "" }},
		"memory": {problem.InvalidRequest, func(d *dr.Definition) { d.MemoryMiB = 0 }},
		"cpus":   {problem.InvalidRequest, func(d *dr.Definition) { d.CPUs = -1 }},
		"size":   {problem.DiskNotSupported, func(d *dr.Definition) { d.Disks[1].SizeBytes = 1000 }},
		"none":   {problem.DiskNotSupported, func(d *dr.Definition) { d.Disks[0].SizeBytes = 0 }},
	} {
		def := s.definition("web")
		c.change(&def)
		if err := s.d.Create(s.ctx, def); !problem.HasCode(err, c.code) {
			s.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	if list, err := s.d.Machines(s.ctx); err != nil || len(list) != 0 {
		s.Errorf("something was made: %v, %v", list, err)
	}
}

func (s *suite) unknownNames() {
	_, err := s.d.Machine(s.ctx, "nobody")
	s.code(err, problem.UnknownMachine)
	s.code(s.d.Start(s.ctx, "nobody", site.StartOptions{}), problem.UnknownMachine)
	s.code(s.d.Stop(s.ctx, "nobody", site.Hard, 0), problem.UnknownMachine)
	s.code(s.d.Update(s.ctx, s.definition("nobody")), problem.UnknownMachine)
	s.code(s.d.SetStandby(s.ctx, "nobody", true), problem.UnknownMachine)
	_, err = s.d.OpenDisk(s.ctx, "nobody", "disk0")
	s.code(err, problem.UnknownMachine)
	_, err = s.d.DiskPath(s.ctx, "nobody", "disk0")
	s.code(err, problem.UnknownMachine)
	// What is deleted cannot be told from what never was.
	s.must(s.d.Delete(s.ctx, "nobody", false))

	s.must(s.d.Create(s.ctx, s.definition("web")))
	_, err = s.d.OpenDisk(s.ctx, "web", "disk9")
	s.code(err, problem.UnknownDisk)
	_, err = s.d.DiskPath(s.ctx, "web", "disk9")
	s.code(err, problem.UnknownDisk)
	def := s.definition("lost")
	def.NICs[0].Network = "no-such-network"
	s.must(s.d.Create(s.ctx, def))
	s.code(s.d.Start(s.ctx, "lost", site.StartOptions{}), problem.UnknownNetwork)
	s.state("lost", site.Off)
}

func (s *suite) power() {
	s.must(s.d.Create(s.ctx, s.definition("web")))
	s.must(s.d.Stop(s.ctx, "web", site.Graceful, time.Second)) // it is off
	s.bootedAt("web", false)
	before := time.Now().Truncate(time.Second)
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	if at := s.bootedAt("web", true); at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
		s.T.Errorf("started after %v, booted at %v", before, at)
	}
	s.state("web", site.Running)
	s.reopen()
	s.state("web", site.Running)
	s.code(s.d.Delete(s.ctx, "web", false), problem.MachineRunning)
	changed := s.definition("web")
	changed.CPUs = 2
	s.code(s.d.Update(s.ctx, changed), problem.MachineRunning)
	s.must(s.d.Stop(s.ctx, "web", site.GracefulThenHard, 200*time.Millisecond))
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
	s.state("web", site.Off)
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
	s.state("web", site.Off)
}

// bootedAt demands that the site knows since when a machine runs, or, when it
// is off, names no time.
func (s *suite) bootedAt(name dr.MachineName, runs bool) time.Time {
	s.T.Helper()
	m, err := s.d.Machine(s.ctx, name)
	s.must(err)
	if m.BootedAt.IsZero() == runs {
		s.T.Errorf("machine %s is %s, booted at %v", name, m.State, m.BootedAt)
	}
	return m.BootedAt
}

func (s *suite) pausedStart() {
	s.must(s.d.Create(s.ctx, s.definition("web")))
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{Paused: true}))
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{Paused: true}))
	s.state("web", site.Paused)
	s.code(s.d.Stop(s.ctx, "web", site.Graceful, 100*time.Millisecond), problem.MachineRunning)
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	s.state("web", site.Running)
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
}

func (s *suite) openDisk() {
	s.must(s.d.Create(s.ctx, s.definition("web")))
	content := bytes.Repeat([]byte("rebound."), 512)
	s.write("web", "disk1", content, diskSize-4096)
	if got := s.read("web", "disk1", 4096, diskSize-4096); !bytes.Equal(got, content) {
		s.Fatal("a disk forgot what was written")
	}
	dev, err := s.d.OpenDisk(s.ctx, "web", "disk0")
	s.must(err)
	if dev.Size() != diskSize {
		s.Errorf("size %d, want %d", dev.Size(), diskSize)
	}
	_, err = s.d.OpenDisk(s.ctx, "web", "disk0")
	s.code(err, problem.MachineInUse)
	s.code(s.d.Start(s.ctx, "web", site.StartOptions{}), problem.MachineInUse)
	s.state("web", site.Off)
	s.must(dev.Close())
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	_, err = s.d.OpenDisk(s.ctx, "web", "disk0")
	s.code(err, problem.MachineRunning)
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
	if got := s.read("web", "disk1", 4096, diskSize-4096); !bytes.Equal(got, content) {
		s.Fatal("a run changed a disk that no guest wrote to")
	}
}

func (s *suite) remove() {
	def := s.definition("web")
	s.must(s.d.Create(s.ctx, def))
	s.write("web", "disk0", []byte("stays"), 1<<20)
	s.must(s.d.Delete(s.ctx, "web", true))
	s.must(s.d.Delete(s.ctx, "web", true))
	_, err := s.d.Machine(s.ctx, "web")
	s.code(err, problem.UnknownMachine)
	s.must(s.d.Create(s.ctx, def))
	if got := s.read("web", "disk0", 5, 1<<20); string(got) != "stays" {
		s.Fatalf("a kept disk holds %q", got)
	}
	s.must(s.d.Delete(s.ctx, "web", false))
	s.must(s.d.Create(s.ctx, def))
	if got := s.read("web", "disk0", 5, 1<<20); !bytes.Equal(got, make([]byte, 5)) {
		s.Fatalf("a deleted disk holds %q", got)
	}
}

func (s *suite) update() {
	s.must(s.d.Create(s.ctx, s.definition("web")))
	s.write("web", "disk0", []byte("stays"), 0)
	def := s.definition("web")
	def.MemoryMiB = 48
	def.NICs = append(def.NICs, dr.NIC{MAC: "52:54:00:aa:bb:cd", Network: s.f.Network, Model: "e1000"})
	def.Disks[0].SizeBytes *= 2
	def.Disks = append(def.Disks, dr.DiskSpec{ID: "disk3", Bus: "virtio", SizeBytes: diskSize})
	s.must(s.d.Update(s.ctx, def))
	s.must(s.d.Update(s.ctx, def))
	s.reopen()
	m, err := s.d.Machine(s.ctx, "web")
	s.must(err)
	if m.Definition.MemoryMiB != 48 || len(m.Definition.NICs) != 2 || len(m.Definition.Disks) != 4 {
		s.Fatalf("got %+v", m.Definition)
	}
	if got := s.read("web", "disk0", 5, 0); string(got) != "stays" {
		s.Fatalf("a grown disk holds %q", got)
	}
	s.read("web", "disk3", diskSize, 0)
	def.Disks[0].SizeBytes = diskSize
	s.code(s.d.Update(s.ctx, def), problem.DiskNotSupported)
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	s.state("web", site.Running)
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
}

func (s *suite) standby() {
	s.must(s.d.Create(s.ctx, s.definition("web")))
	s.must(s.d.SetStandby(s.ctx, "web", true))
	s.must(s.d.SetStandby(s.ctx, "web", true))
	s.reopen()
	m, err := s.d.Machine(s.ctx, "web")
	s.must(err)
	if !m.Standby {
		s.Fatal("the mark is lost")
	}
	s.code(s.d.Start(s.ctx, "web", site.StartOptions{}), problem.MachineInUse)
	s.code(s.d.Delete(s.ctx, "web", false), problem.MachineInUse)
	s.state("web", site.Off)
	s.write("web", "disk0", []byte("by the journal"), 0) // that is what it is for
	s.must(s.d.SetStandby(s.ctx, "web", false))
	s.must(s.d.Start(s.ctx, "web", site.StartOptions{}))
	s.must(s.d.Stop(s.ctx, "web", site.Hard, 0))
}

func (s *suite) manyAtOnce() {
	names := []dr.MachineName{"a", "b", "c"}
	var wg sync.WaitGroup
	for _, name := range names {
		for range 2 { // the same call twice at a time
			wg.Go(func() {
				if err := s.d.Create(s.ctx, s.definition(name)); err != nil {
					s.Error(err)
				}
				if err := s.d.Start(s.ctx, name, site.StartOptions{}); err != nil {
					s.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, name := range names {
		s.state(name, site.Running)
		wg.Go(func() {
			if err := s.d.Stop(s.ctx, name, site.Hard, 0); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	for _, name := range names {
		s.state(name, site.Off)
	}
}
