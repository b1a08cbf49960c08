package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/checker"
	"rebound/internal/lab/ledger"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// handRecords is how much the old primary writes after it was replaced.
const handRecords = 200

// oldPrimary starts the lost machine at home by hand; then its gateway returns.
func (d *demo) oldPrimary(ctx context.Context) (string, error) {
	d.w.Collector.NewWorld()
	at := time.Now()
	p, err := d.startByHand(homeSite, firstGuest)
	if err != nil {
		return "", err
	}
	s, err := d.w.Collector.WaitBoot(ctx, firstGuest, at)
	if err != nil {
		return "", err
	}
	if _, err := d.w.Collector.WaitAck(ctx, s.Boot, s.State.Count+handRecords); err != nil {
		return "", err
	}
	before, err := d.w.Client.Group(ctx, groupName)
	if err != nil {
		return "", err
	}
	back := time.Now()
	if err := d.w.RunGateway(ctx, homeGW); err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		return "", errors.New("the old machine still runs 30 s after its gateway's return")
	}
	d.rep.Fencing.OldVMOff = time.Since(back).Seconds()
	if s, ok := d.w.Collector.Session(s.Boot); ok {
		d.diverged = s.Newest
	}
	if err := d.w.waitGateway(ctx, homeGW); err != nil {
		return "", err
	}
	after, err := d.w.Client.Group(ctx, groupName)
	if err != nil {
		return "", err
	}
	d.rep.Fencing.StaleFramesAccepted = accepted(before, after)
	if err := d.sawEvent(ctx, "StalePrimaryPoweredOff"); err != nil {
		return "", err
	}
	return fmt.Sprintf("it wrote %d records; powered off %.1f s after its gateway's return", d.diverged.N-s.State.Count, d.rep.Fencing.OldVMOff), nil
}

// accepted is how many entries of the group's stream a standby took between two
// looks, though there is no source that may send: any is one too many.
func accepted(before, after rest.Group) int64 {
	if after.RPO.Confirmed.Compare(before.RPO.Confirmed) > 0 {
		return int64(after.RPO.Confirmed.Seq - before.RPO.Confirmed.Seq)
	}
	return 0
}

func (d *demo) sawEvent(ctx context.Context, code string) error {
	return poll(ctx, 30*time.Second, "event "+code, func() error {
		events, err := d.w.Client.Events(ctx, 0, 1000)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Code == code {
				return nil
			}
		}
		return errors.New("it is not listed")
	})
}

// reprotect turns the direction and checks what was sent and kept.
func (d *demo) reprotect(ctx context.Context) (string, error) {
	if err := d.transfer(ctx, &d.rep.Reprotect, cloudSite, homeSite); err != nil {
		return "", err
	}
	kept, err := d.exportDiverged(ctx)
	if err != nil {
		return "", err
	}
	if err := d.refusedByHand(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("sent %s; what the old machine had written is kept: %d records", transfer(d.rep.Reprotect), kept), nil
}

// transfer reprotects while the guests rest, and compares what was sent with
// what differed between the two sites' images before.
func (d *demo) transfer(ctx context.Context, t *Transfer, from, to dr.SiteID) error {
	if err := d.rest(ctx); err != nil {
		return err
	}
	changed, err := d.difference(from, to)
	if err != nil {
		return err
	}
	t.ChangedBytes = changed
	if err := d.operateUntilAllowed(ctx, lifecycle.Reprotect); err != nil {
		return err
	}
	if err := d.waitState(ctx, lifecycle.Protected); err != nil {
		return err
	}
	g, err := d.w.Client.Group(ctx, groupName)
	if err != nil {
		return err
	}
	t.SentBytes = g.Counters.SentBytes
	d.w.Collector.SetPaused("", false)
	return d.verified(ctx)
}

// verified lets every block of both sites be compared while the guests write.
func (d *demo) verified(ctx context.Context) error {
	job, err := d.operate(ctx, lifecycle.Verify, rest.OperationRequest{})
	if err != nil {
		return err
	}
	for _, t := range job.Tasks {
		if n, ok := t.Result["differing"].(float64); ok {
			if n != 0 {
				return fmt.Errorf("the standby differs from its source in %.0f bytes", n)
			}
			return nil
		}
	}
	return errors.New("the verification does not say what it found")
}

// rest makes the guests pause and waits until nothing is on its way.
func (d *demo) rest(ctx context.Context) error {
	d.w.Collector.SetPaused("", true)
	for g, boot := range d.boots {
		if _, err := d.w.Collector.WaitQuiet(ctx, boot, 3*time.Second); err != nil {
			return fmt.Errorf("%s does not rest: %w", g, err)
		}
	}
	return nil
}

// operateUntilAllowed repeats an operation that is refused for the time being:
// an agent may take a while to register.
func (d *demo) operateUntilAllowed(ctx context.Context, op lifecycle.Operation) error {
	return poll(ctx, time.Minute, string(op), func() error {
		_, err := d.operate(ctx, op, rest.OperationRequest{})
		if err != nil && !problem.HasCode(err, problem.AgentNotInstalled) {
			return stopPolling{err}
		}
		return err
	})
}

// difference counts the bytes of 4 KiB blocks that differ between the sites.
func (d *demo) difference(from, to dr.SiteID) (int64, error) {
	var n int64
	for name, res := range d.built {
		for _, disk := range res.Definition.Disks {
			a := diskFile(d.w, from, name, disk.ID)
			b := diskFile(d.w, to, name, disk.ID)
			diff, err := checker.CompareImages(a, b)
			if err != nil {
				return 0, err
			}
			n += diff.Bytes
		}
	}
	return n, nil
}

func diskFile(w *World, site dr.SiteID, machine string, disk dr.DiskID) string {
	return filepath.Join(w.Datastore(site), "machines", machine, string(disk)+".raw")
}

// exportDiverged exports the point that holds the old primary's last writes,
// and reads its ledger. An export works with everything else dead, so the
// gateway that owns the journal is stopped for it.
func (d *demo) exportDiverged(ctx context.Context) (uint64, error) {
	points, err := d.w.Client.Points(ctx, client.GroupTarget(groupName), client.PointFilter{Kind: dr.Diverged})
	if err != nil {
		return 0, err
	}
	if len(points.Points) != 1 {
		return 0, fmt.Errorf("%d diverged points, want one", len(points.Points))
	}
	if err := d.w.procs[string(homeGW)].stop(ctx); err != nil {
		return 0, err
	}
	l, err := d.exportedLedger(ctx, points.Points[0].ID)
	if err != nil {
		return 0, err
	}
	if !l.Has(d.diverged) {
		return 0, fmt.Errorf("the export holds %d records, the old machine had written %d", l.State.Count, d.diverged.N)
	}
	if err := d.w.RunGateway(ctx, homeGW); err != nil {
		return 0, err
	}
	if err := d.w.waitGateway(ctx, homeGW); err != nil {
		return 0, err
	}
	return handRecords, d.waitState(ctx, lifecycle.Protected)
}

// exportedLedger exports the first machine's disks at a point of the journal at
// home and reads the ledger on them.
func (d *demo) exportedLedger(ctx context.Context, point dr.PointID) (*ledger.Ledger, error) {
	journal := filepath.Join(d.w.gateways[homeGW].dir, "journals", string(groupName), "journal")
	var disks []string
	for _, disk := range d.built[firstGuest].Definition.Disks {
		out := filepath.Join(d.w.cfg.Dir, "diverged-"+string(disk.ID)+".raw")
		defer os.Remove(out)
		cmd := exec.CommandContext(ctx, d.cfg.Program, "journal", "export", journal, "--point", string(point),
			"--disk", firstGuest+"/"+string(disk.ID), "--format", "raw", "--out", out)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("export %s: %w: %s", point, err, text)
		}
		disks = append(disks, out)
	}
	return checker.ReadDisks(ctx, disks...)
}

// refusedByHand starts the standby machine at home by hand, which must fail.
func (d *demo) refusedByHand(ctx context.Context) error {
	p, err := d.startByHand(homeSite, firstGuest)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.kill()
		return errors.New("a standby machine could be started by hand")
	case <-ctx.Done():
		p.kill()
		return ctx.Err()
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Errorf("read output: %w", err)
	}
	if !strings.Contains(string(text), "lock") {
		return fmt.Errorf("the standby machine did not start, but not for a lock: %s", text)
	}
	d.rep.Fencing.StandbyStartRefused = true
	return nil
}

// moreWrites lets the machines work in the cloud for a while.
func (d *demo) moreWrites(ctx context.Context) (string, error) {
	before := d.newest()
	for g, boot := range d.boots {
		if _, err := d.w.Collector.WaitAck(ctx, boot, before[g]+200); err != nil {
			return "", err
		}
	}
	return "200 more records of each machine", nil
}

// failback takes the group home without losing a write.
func (d *demo) failback(ctx context.Context) (string, error) {
	cloud := map[string]string{firstGuest: d.boots[firstGuest], secondGuest: d.boots[secondGuest]}
	d.w.Collector.NewWorld()
	at := time.Now()
	if _, err := d.operate(ctx, lifecycle.Failback, rest.OperationRequest{Mode: "planned", Point: dr.Latest}); err != nil {
		return "", err
	}
	if _, err := d.awaitBoots(ctx, at); err != nil {
		return "", err
	}
	first, err := d.firstRecord(ctx)
	if err != nil {
		return "", err
	}
	found, err := d.ledgers(ctx)
	if err != nil {
		return "", err
	}
	p := &d.rep.PlannedFailback
	var last time.Time
	for g, l := range found {
		acks := checker.SinceBoot(d.w.Collector.Acks(g), cloud[g])
		for _, a := range acks {
			if a.Wall.After(last) {
				last = a.Wall
			}
		}
		v := checker.Planned(l, acks, time.Now())
		p.Acked, p.Recovered, p.Lost = p.Acked+v.Acked, p.Recovered+v.Recovered, p.Lost+v.Lost
		if !v.OK {
			return "", fmt.Errorf("%s: %s", g, strings.Join(v.Reasons, "; "))
		}
	}
	p.Downtime = first.Sub(last).Seconds()
	if err := d.judgeOrder(found); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d records, none lost; %.1f s between the last one in the cloud and the first one at home", p.Recovered, p.Downtime), nil
}

// commitFailback deletes the cloud machines and keeps their disks as a seed.
func (d *demo) commitFailback(ctx context.Context) (string, error) {
	if err := d.refusedByHand(ctx); err != nil {
		return "", err
	}
	plan, err := d.w.Client.DryRun(ctx, client.GroupTarget(groupName), lifecycle.Commit, rest.OperationRequest{})
	if err != nil {
		return "", err
	}
	if _, err := d.operate(ctx, lifecycle.Commit, rest.OperationRequest{}); err != nil {
		return "", err
	}
	drv, err := d.w.Driver(cloudSite)
	if err != nil {
		return "", err
	}
	defer drv.Close()
	for name := range d.built {
		if m, err := drv.Machine(ctx, dr.MachineName(name)); !problem.HasCode(err, problem.UnknownMachine) {
			return "", fmt.Errorf("%s is still in the cloud (%s): %w", name, m.State, err)
		}
		m, err := d.w.Client.Machine(ctx, homeSite, dr.MachineName(name))
		if err != nil || m.State != site.Running {
			return "", fmt.Errorf("%s is %s at home: %w", name, m.State, err)
		}
	}
	return "deleted as announced: " + strings.Join(plan.Deletes, ", "), nil
}

// secondReprotect closes the circle.
func (d *demo) secondReprotect(ctx context.Context) (string, error) {
	if err := d.transfer(ctx, &d.rep.SecondReprotect, homeSite, cloudSite); err != nil {
		return "", err
	}
	g, err := d.w.Client.Group(ctx, groupName)
	if err != nil {
		return "", err
	}
	if g.ActiveSite != homeSite || g.Direction != dr.Forward {
		return "", fmt.Errorf("active is %s, direction %s", g.ActiveSite, g.Direction)
	}
	return "sent " + transfer(d.rep.SecondReprotect) + ", RPO " + rpoText(g.RPO), nil
}
