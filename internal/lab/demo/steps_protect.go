package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/image"
	"rebound/internal/lab/wire"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/site/qemu"
	"rebound/internal/vault/rest"
)

func splitAddr(addr string) (host, port string, err error) { return net.SplitHostPort(addr) }

// create starts the world and builds the two machines at home.
func (d *demo) create(ctx context.Context) (string, error) {
	w, err := NewWorld(ctx, WorldConfig{Program: d.cfg.Program, Dir: filepath.Join(d.cfg.Out, "world"), EvidenceDir: d.evidence(), Log: d.cfg.Log})
	d.w = w
	if err != nil {
		return "", err
	}
	b, err := image.NewBuilder(image.Config{CacheDir: d.cfg.CacheDir, Logger: d.cfg.Log})
	if err != nil {
		return "", err
	}
	var bytes int64
	for i, name := range []string{firstGuest, secondGuest} {
		res, err := d.build(ctx, b, name, i)
		if err != nil {
			return "", err
		}
		d.built[name] = res
		for _, disk := range res.Definition.Disks {
			bytes += disk.SizeBytes
		}
		if err := w.AddMachine(ctx, homeSite, res); err != nil {
			return "", err
		}
	}
	d.rep.Group.Members = len(d.built)
	d.rep.Reprotect.DiskBytes, d.rep.SecondReprotect.DiskBytes = bytes, bytes
	return fmt.Sprintf("%s starts with a BIOS, %s with UEFI; two disks each, %d MiB in all", firstGuest, secondGuest, bytes>>20), nil
}

// build makes one guest: the first with BIOS, the second with UEFI.
func (d *demo) build(ctx context.Context, b *image.Builder, name string, i int) (*image.Result, error) {
	agent, err := d.w.AgentConfig(ctx, dr.MachineName(name))
	if err != nil {
		return nil, err
	}
	conf := wire.GuestConfig{
		Name: name, Collector: d.w.Collector.GuestAddr(), RecordsPerSecond: workRate, Agent: agent,
		Reach: []string{"10.0.2.2:" + portOf(d.w.vaultAddr), "10.0.2.3:53"},
	}
	if i == 1 {
		conf.Peer = firstGuest
	}
	return b.Build(ctx, image.Guest{
		Firmware: []dr.Firmware{dr.BIOS, dr.UEFI}[i], Dir: filepath.Join(d.w.cfg.Dir, "build", name),
		BallastMiB: d.cfg.BallastMiB, Seed: d.cfg.Seed, Network: network, Config: conf,
	})
}

func portOf(addr string) string {
	_, port, err := splitAddr(addr)
	if err != nil {
		return addr
	}
	return port
}

// bareBoot measures what a plain start takes, with nothing of Rebound near it.
func (d *demo) bareBoot(ctx context.Context) (string, error) {
	drv, err := d.w.Driver(homeSite)
	if err != nil {
		return "", err
	}
	defer drv.Close()
	var took []float64
	for range 3 {
		s, err := d.bootOnce(ctx, drv)
		if err != nil {
			return "", err
		}
		took = append(took, s)
	}
	slices.Sort(took)
	d.rep.Unplanned.BareBoot = took[1]
	return fmt.Sprintf("%.2f s from start to the first new record, median of %.2f", took[1], took), nil
}

// bootOnce restarts both machines at home and returns the seconds until the
// first new record.
func (d *demo) bootOnce(ctx context.Context, drv *qemu.Driver) (float64, error) {
	for name := range d.built {
		if err := drv.Stop(ctx, dr.MachineName(name), site.Hard, 10*time.Second); err != nil {
			return 0, err
		}
	}
	at := time.Now()
	errc := make(chan error, len(d.built))
	for name := range d.built {
		go func() { errc <- drv.Start(ctx, dr.MachineName(name), site.StartOptions{}) }()
	}
	for range d.built {
		if err := <-errc; err != nil {
			return 0, err
		}
	}
	if _, err := d.awaitBoots(ctx, at); err != nil {
		return 0, err
	}
	first, err := d.firstRecord(ctx)
	d.keepLineage()
	return first.Sub(at).Seconds(), err
}

// protect makes the group and waits until it is protected.
func (d *demo) protect(ctx context.Context) (string, error) {
	if err := d.waitRate(ctx, 50); err != nil {
		return "", err
	}
	_, err := d.w.Client.PutPolicy(ctx, rest.Policy{
		ID: "demo", RPOThreshold: 60, CrashInterval: 2, RedoWindow: 7200, Compression: "none", RequireAgent: true,
		ShutdownTimeout: 60, BootTimeout: 120,
	})
	if err != nil {
		return "", err
	}
	at := time.Now()
	job, err := d.w.Client.Protect(ctx, rest.ProtectRequest{
		Machines: []dr.MachineName{firstGuest, secondGuest}, Site: homeSite, To: cloudSite, Policy: "demo", Group: groupName,
	})
	if err != nil {
		return "", err
	}
	if _, err := d.waitJob(ctx, job.ID); err != nil {
		return "", err
	}
	if err := d.waitState(ctx, lifecycle.Protected); err != nil {
		return "", err
	}
	took := time.Since(at)
	g, err := d.w.Client.Group(ctx, groupName)
	if err != nil {
		return "", err
	}
	if d.rpo, err = pollRPO(context.WithoutCancel(ctx), d.w.Client, groupName, filepath.Join(d.evidence(), "rpo.jsonl")); err != nil {
		return "", err
	}
	if err := saveCommandLines(d.w.Datastore(homeSite), d.evidence(), "home"); err != nil {
		return "", err
	}
	const mib = 1 << 20
	return fmt.Sprintf("%d MiB in %.1f s, RPO %s", g.Counters.SentBytes/mib, took.Seconds(), rpoText(g.RPO)), nil
}

func rpoText(r rest.RPO) string {
	if r.Seconds == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.2f s", *r.Seconds)
}

// testNetwork is what the test failover runs in.
const testNetwork = "drill"

// testFailover starts test machines and asserts from inside that they reach
// each other and nothing else.
func (d *demo) testFailover(ctx context.Context) (string, error) {
	before, err := d.w.Client.Group(ctx, groupName)
	if err != nil {
		return "", err
	}
	if _, err := d.operate(ctx, lifecycle.TestFailover, rest.OperationRequest{Point: dr.LatestProcessed, Network: testNetwork}); err != nil {
		return "", err
	}
	for name, peer := range map[string]string{firstGuest: secondGuest, secondGuest: firstGuest} {
		console := filepath.Join(d.w.Datastore(cloudSite), "machines", name+"-test", "console.log")
		if err := waitIsolated(ctx, console, peer); err != nil {
			return "", fmt.Errorf("test machine of %s: %w", name, err)
		}
	}
	after, err := d.w.Client.Group(ctx, groupName)
	if err != nil {
		return "", err
	}
	if a, b := after.RPO.Confirmed, before.RPO.Confirmed; a.Epoch != b.Epoch || !b.Before(a) {
		return "", fmt.Errorf("replication was disturbed: %s before the test, %s after it", b, a)
	}
	return "the members reach each other and nothing else; replication went on, RPO " + rpoText(after.RPO), nil
}

// waitIsolated reads a console until its guest reports that it reaches its peer
// and nothing else. A guest that ever reports more is not isolated.
func waitIsolated(ctx context.Context, console, peer string) error {
	return poll(ctx, 2*time.Minute, "a report from inside", func() error {
		reports, err := reachReports(console)
		if err != nil {
			return err
		}
		last := errors.New("nothing was reported")
		for _, r := range reports {
			for _, h := range r.Hosts {
				if h.Reachable {
					return stopPolling{fmt.Errorf("it reached %s", h.Address)}
				}
			}
			ok, why := r.Isolated(peer)
			if ok {
				return nil
			}
			last = errors.New(why)
		}
		return last
	})
}

// reachReports reads the reports of a console's log.
func reachReports(console string) ([]wire.Reach, error) {
	f, err := os.Open(console)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []wire.Reach
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if e, ok := wire.ParseLine(sc.Bytes()); ok && e.Reach != nil {
			out = append(out, *e.Reach)
		}
	}
	return out, sc.Err()
}

// testCleanup deletes the test machines.
func (d *demo) testCleanup(ctx context.Context) (string, error) {
	if err := saveCommandLines(d.w.Datastore(cloudSite), d.evidence(), "test"); err != nil {
		return "", err
	}
	if _, err := d.operate(ctx, lifecycle.TestCleanup, rest.OperationRequest{Notes: "both booted and saw each other"}); err != nil {
		return "", err
	}
	for name := range d.built {
		if left := processesOf(filepath.Join(d.w.Datastore(cloudSite), "machines", name+"-test") + "/"); len(left) > 0 {
			return "", fmt.Errorf("processes of the test machine of %s are left: %v", name, left)
		}
	}
	return "the test machines are gone", nil
}

// changeMachine gives the first machine more memory and a second card, for
// which it is shut down and started again, as an administrator would do it.
func (d *demo) changeMachine(ctx context.Context) (string, error) {
	if err := sleep(ctx, time.Duration(500+d.rng.IntN(1500))*time.Millisecond); err != nil {
		return "", err
	}
	d.past = time.Now()
	if err := sleep(ctx, 2*time.Second); err != nil {
		return "", err
	}
	drv, err := d.w.Driver(homeSite)
	if err != nil {
		return "", err
	}
	defer drv.Close()
	if err := drv.Stop(ctx, firstGuest, site.Graceful, time.Minute); err != nil {
		return "", err
	}
	m, err := drv.Machine(ctx, firstGuest)
	if err != nil {
		return "", err
	}
	def := m.Definition
	before := def.MemoryMiB
	def.MemoryMiB += 128
	def.NICs = append(slices.Clone(def.NICs), dr.NIC{MAC: "52:54:00:00:00:77", Network: network, Model: def.NICs[0].Model})
	if err := drv.Update(ctx, def); err != nil {
		return "", err
	}
	at := time.Now()
	if err := drv.Start(ctx, firstGuest, site.StartOptions{}); err != nil {
		return "", err
	}
	s, err := d.w.Collector.WaitBoot(ctx, firstGuest, at)
	if err != nil {
		return "", err
	}
	d.boots[firstGuest] = s.Boot
	d.lineage[firstGuest] = append(d.lineage[firstGuest], s.Boot)
	if err := d.waitState(ctx, lifecycle.Protected); err != nil {
		return "", err
	}
	if err := d.definitionArrived(ctx, def.MemoryMiB); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %d MiB and %d cards, before %d MiB and %d; protected again", firstGuest, def.MemoryMiB, len(def.NICs), before, len(m.Definition.NICs)), nil
}
