package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/checker"
	"rebound/internal/lab/ledger"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// definitionArrived waits until the newest point carries the new definition.
func (d *demo) definitionArrived(ctx context.Context, memory int) error {
	return poll(ctx, time.Minute, "the new definition at the standby", func() error {
		r, err := d.w.Client.Resolve(ctx, client.GroupTarget(groupName), dr.Latest)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Definitions, func(x dr.Definition) bool { return x.Name == firstGuest })
		if i < 0 || r.Definitions[i].MemoryMiB != memory {
			return fmt.Errorf("the newest point has not got it")
		}
		return nil
	})
}

// loseSite kills everything at home while the guests write.
func (d *demo) loseSite(ctx context.Context) (string, error) {
	if err := d.waitRate(ctx, 50); err != nil {
		return "", err
	}
	if err := sleep(ctx, time.Duration(d.rng.IntN(1000))*time.Millisecond); err != nil {
		return "", err
	}
	guests := processesOf("qemu-system", d.w.Datastore(homeSite)+"/")
	captures := processesOf("capture", filepath.Join(d.w.run, string(homeSite))+"/")
	if len(guests) != 2 || len(captures) != 1 {
		return "", fmt.Errorf("found %d machines and %d captures at home, want 2 and 1", len(guests), len(captures))
	}
	rate := d.w.Collector.Rate("", time.Second)
	shown, err := d.rpo.fresh(ctx)
	if err != nil {
		return "", err
	}
	d.cut = time.Now()
	gw := d.w.procs[string(homeGW)].cmd.Process.Pid
	if err := killAll(append(append(slices.Clone(guests), captures...), gw)); err != nil {
		return "", err
	}
	d.rep.Unplanned.ShownRPO = *shown.Seconds
	return fmt.Sprintf("2 machines, gateway and capture killed at %.0f records a second; the API showed an RPO of %.3f s %d ms before", rate, *shown.Seconds, d.cut.Sub(shown.Time).Milliseconds()), nil
}

// failover brings the group up in the cloud and judges what is there.
func (d *demo) failover(ctx context.Context) (string, error) {
	d.w.Collector.NewWorld()
	at := time.Now()
	errc := make(chan error, 1)
	go func() {
		_, err := d.operate(ctx, lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: dr.Latest, ShutdownSource: "skip"})
		errc <- err
	}()
	if err := d.recoveredBoots(ctx, at, errc); err != nil {
		return "", err
	}
	first, err := d.firstRecord(ctx)
	if err != nil {
		return "", err
	}
	if err := <-errc; err != nil {
		return "", err
	}
	d.rep.Unplanned.RTO = first.Sub(at).Seconds()
	if err := d.judgeLoss(ctx); err != nil {
		return "", err
	}
	u := d.rep.Unplanned
	return fmt.Sprintf("first new record %.2f s after the order; of %d acknowledged records %d are lost, the oldest from %.3f s before the cut", u.RTO, u.Acked, u.Lost, u.OldestLostAge), saveCommandLines(d.w.Datastore(cloudSite), d.evidence(), "cloud")
}

// recoveredBoots waits for new boots of both guests, or for the job's failure.
func (d *demo) recoveredBoots(ctx context.Context, at time.Time, job chan error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-job:
			if err != nil {
				cancel(err)
			}
			job <- err
		case <-ctx.Done():
		}
	}()
	_, err := d.awaitBoots(ctx, at)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// judgeLoss compares the recovered ledgers with the acknowledgements.
func (d *demo) judgeLoss(ctx context.Context) error {
	found, err := d.ledgers(ctx)
	if err != nil {
		return err
	}
	u := &d.rep.Unplanned
	for g, l := range found {
		acks := checker.SinceBoot(d.w.Collector.Acks(g), d.lineage[g]...)
		v := checker.Unplanned(l, acks, d.cut, time.Duration(u.ShownRPO*float64(time.Second)))
		u.Acked += v.Acked
		u.Recovered += v.Recovered
		u.Lost += v.Lost
		u.OldestLostAge = max(u.OldestLostAge, v.OldestLostAge.Seconds())
		if !v.OK {
			return fmt.Errorf("%s: %s", g, strings.Join(v.Reasons, "; "))
		}
	}
	return d.judgeOrder(found)
}

// judgeOrder adds the violations of one recovery.
func (d *demo) judgeOrder(found map[string]*ledger.Ledger) error {
	n := checker.OrderViolations(found[firstGuest], found[secondGuest])
	d.rep.Group.OrderViolations += n
	if n > 0 {
		return fmt.Errorf("%d records of %s name records of %s that are not there", n, secondGuest, firstGuest)
	}
	return nil
}

// changePoint restarts the recovered machines from another moment.
func (d *demo) changePoint(ctx context.Context, sel dr.PointSelector) (map[string]*ledger.Ledger, rest.Group, error) {
	d.w.Collector.NewWorld()
	at := time.Now()
	if _, err := d.operate(ctx, lifecycle.ChangePoint, rest.OperationRequest{Point: sel}); err != nil {
		return nil, rest.Group{}, err
	}
	if _, err := d.awaitBoots(ctx, at); err != nil {
		return nil, rest.Group{}, err
	}
	found, err := d.ledgers(ctx)
	if err != nil {
		return nil, rest.Group{}, err
	}
	if err := d.judgeOrder(found); err != nil {
		return nil, rest.Group{}, err
	}
	g, err := d.w.Client.Group(ctx, groupName)
	if err == nil && g.Recovered == nil {
		err = fmt.Errorf("the API does not say which moment is used")
	}
	return found, g, err
}

// toThePast goes to a moment before the change: the old definition, and exactly
// the writes that were acknowledged by then.
func (d *demo) toThePast(ctx context.Context) (string, error) {
	found, g, err := d.changePoint(ctx, dr.PointSelector(d.past.UTC().Format(time.RFC3339Nano)))
	if err != nil {
		return "", err
	}
	p := &d.rep.PointInTime
	p.Asked = d.past.UTC().Format(time.RFC3339Nano)
	for name, l := range found {
		acks := checker.SinceBoot(d.w.Collector.Acks(name), d.lineage[name]...)
		v := checker.AtMoment(l, acks, g.Recovered.Time)
		if name == firstGuest {
			p.ExpectedLow, p.ExpectedHigh, p.Recovered = v.ExpectedLow, v.ExpectedHigh, v.Recovered
		}
		if !v.OK {
			return "", fmt.Errorf("%s: %s", name, strings.Join(v.Reasons, "; "))
		}
	}
	drv, err := d.w.Driver(cloudSite)
	if err != nil {
		return "", err
	}
	defer drv.Close()
	m, err := drv.Machine(ctx, firstGuest)
	if err != nil {
		return "", err
	}
	want := d.built[firstGuest].Definition
	if m.Definition.MemoryMiB != want.MemoryMiB || len(m.Definition.NICs) != len(want.NICs) {
		return "", fmt.Errorf("%s runs with %d MiB and %d cards, at that moment it had %d and %d", firstGuest, m.Definition.MemoryMiB, len(m.Definition.NICs), want.MemoryMiB, len(want.NICs))
	}
	return fmt.Sprintf("asked for %s, got %s: %d records where %d to %d are right; %s has its old %d MiB and %d card", d.past.Format("15:04:05.000"), g.Recovered.Time.Local().Format("15:04:05.000"), p.Recovered, p.ExpectedLow, p.ExpectedHigh, firstGuest, m.Definition.MemoryMiB, len(m.Definition.NICs)), nil
}

// toTheNewest goes back: nothing of the excursion is left.
func (d *demo) toTheNewest(ctx context.Context) (string, error) {
	found, _, err := d.changePoint(ctx, dr.Latest)
	if err != nil {
		return "", err
	}
	var n uint64
	for g, l := range found {
		n += l.State.Count
		if !l.State.Sound() {
			return "", fmt.Errorf("the ledger of %s: %s", g, l.State.Problem)
		}
	}
	if n != d.rep.Unplanned.Recovered {
		return "", fmt.Errorf("%d records, after the failover there were %d", n, d.rep.Unplanned.Recovered)
	}
	// From here on these boots write the history that counts.
	d.lineage = map[string][]string{}
	d.keepLineage()
	return fmt.Sprintf("%d records, as after the failover", n), nil
}

// killStandby kills the gateway whose views the machines run on.
func (d *demo) killStandby(ctx context.Context) (string, error) {
	d.w.procs[string(cloudGW)].kill()
	if err := sleep(ctx, time.Second); err != nil {
		return "", err
	}
	at := time.Now()
	if err := d.w.RunGateway(ctx, cloudGW); err != nil {
		return "", err
	}
	if err := d.w.waitGateway(ctx, cloudGW); err != nil {
		return "", err
	}
	for g, boot := range d.boots {
		s, ok := d.w.Collector.Session(boot)
		if !ok {
			return "", fmt.Errorf("the boot of %s is unknown", g)
		}
		if _, err := d.w.Collector.WaitAck(ctx, boot, s.Newest.N+uint64(workRate)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("the machines went on, without a restart, within %.1f s of its return", time.Since(at).Seconds()), nil
}

// commit makes the failover final under the running machines.
func (d *demo) commit(ctx context.Context) (string, error) {
	before := d.newest()
	if _, err := d.operate(ctx, lifecycle.Commit, rest.OperationRequest{}); err != nil {
		return "", err
	}
	if err := d.waitState(ctx, lifecycle.Committed); err != nil {
		return "", err
	}
	after := d.newest()
	for g := range before {
		if _, err := d.w.Collector.WaitAck(ctx, d.boots[g], after[g]+1); err != nil {
			return "", fmt.Errorf("%s does not go on after the commit: %w", g, err)
		}
	}
	return fmt.Sprintf("the machines wrote %d and %d records meanwhile and go on", after[firstGuest]-before[firstGuest], after[secondGuest]-before[secondGuest]), nil
}

// newest returns the newest acknowledged record of each present boot.
func (d *demo) newest() map[string]uint64 {
	out := map[string]uint64{}
	for g, boot := range d.boots {
		if s, ok := d.w.Collector.Session(boot); ok {
			out[g] = s.Newest.N
		}
	}
	return out
}

// startByHand runs a machine's last command line as a person would.
func (d *demo) startByHand(site dr.SiteID, machine string) (*process, error) {
	out, path, err := d.w.output("by-hand-" + machine)
	if err != nil {
		return nil, err
	}
	script := filepath.Join(d.w.Datastore(site), "machines", machine, commandLineFile)
	if _, err := os.Stat(script); err != nil {
		return nil, fmt.Errorf("find command line: %w", err)
	}
	return runScript(script, out, path)
}
