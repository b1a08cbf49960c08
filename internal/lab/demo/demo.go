package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/collector"
	"rebound/internal/lab/image"
	"rebound/internal/lab/ledger"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// Config of a demo.
type Config struct {
	// Program is the rebound binary that all processes run.
	Program string
	// Out gets report.json, evidence/ and, while it runs, world/.
	Out string
	// Seed moves the kill time, the chosen moment and the disks' layout.
	Seed uint64
	// Keep leaves everything running at the end.
	Keep bool
	// BallastMiB is the random data on each disk; 0 is 256.
	BallastMiB int
	CacheDir   string
	Stdout     io.Writer
	Log        *slog.Logger
}

// The guests. The second names the first's records, which shows the order of
// writes over both.
const (
	firstGuest  = "web"
	secondGuest = "db"
)

// workRate is records a second and guest while there is work.
const workRate = 40

// demo is the state that the steps share.
type demo struct {
	cfg Config
	w   *World
	rep Report
	rng *rand.Rand
	rpo *rpoPoller

	built map[string]*image.Result
	// boots is the present boot of each guest in the world that counts;
	// lineage the boots that wrote the ledger which is the newest one.
	boots   map[string]string
	lineage map[string][]string
	// past is a moment before the machine was changed.
	past time.Time
	cut  time.Time
	// diverged is the ledger that the old primary wrote after the failover.
	diverged ledger.Ref
}

// Run plays the demo and writes its report; it fails when the report is not OK.
func Run(ctx context.Context, cfg Config) error {
	cfg.Out, _ = filepath.Abs(cfg.Out)
	d := &demo{
		cfg: cfg, rep: Report{Seed: cfg.Seed}, rng: rand.New(rand.NewPCG(cfg.Seed, 1)),
		built: map[string]*image.Result{}, boots: map[string]string{}, lineage: map[string][]string{},
	}
	if err := os.RemoveAll(cfg.Out); err != nil {
		return fmt.Errorf("clear %s: %w", cfg.Out, err)
	}
	if err := os.MkdirAll(d.evidence(), 0o755); err != nil {
		return fmt.Errorf("make %s: %w", cfg.Out, err)
	}
	err := d.play(ctx)
	d.rep.judge()
	d.rep.print(cfg.Stdout)
	err = errors.Join(err, d.rep.write(cfg.Out))
	if err == nil && cfg.Keep {
		fmt.Fprintf(cfg.Stdout, "\nVault: https://%s\nToken: %s\nCA:    %s\nEnd it with SIGINT.\n", d.w.vaultAddr, d.w.Token, filepath.Join(d.w.vaultDir(), vaultCAFile))
		<-ctx.Done()
	}
	err = errors.Join(err, d.end(err != nil || !d.rep.OK))
	if err == nil && !d.rep.OK {
		return jobFailed("the demo's report is not OK")
	}
	return err
}

func jobFailed(text string) error { return errors.New(text) }

func (d *demo) evidence() string { return filepath.Join(d.cfg.Out, "evidence") }

// end lets go of everything. A demo that failed keeps its world's logs.
func (d *demo) end(failed bool) error {
	var errs []error
	if d.rpo != nil {
		errs = append(errs, d.rpo.stop())
	}
	if d.w == nil {
		return errors.Join(errs...)
	}
	errs = append(errs, d.w.Close())
	if failed {
		errs = append(errs, os.Rename(filepath.Join(d.w.cfg.Dir, "logs"), filepath.Join(d.cfg.Out, "logs")))
	}
	return errors.Join(append(errs, os.RemoveAll(d.w.cfg.Dir))...)
}

// step is one line of the demo: its name and what it does. It returns what is
// worth telling.
type step struct {
	name string
	do   func(context.Context) (string, error)
}

// stepTimeout bounds each step; the machine may be slow.
const stepTimeout = 4 * time.Minute

// play runs the steps until one fails.
func (d *demo) play(ctx context.Context) error {
	began := time.Now()
	for _, s := range d.steps() {
		fmt.Fprintf(d.cfg.Stdout, "%6.1fs  %s …\n", time.Since(began).Seconds(), s.name)
		at := time.Now()
		one, cancel := context.WithTimeout(ctx, stepTimeout)
		detail, err := s.do(one)
		cancel()
		line := Step{Name: s.name, Seconds: time.Since(at).Seconds(), OK: err == nil, Detail: detail}
		if err != nil {
			line.Detail = err.Error()
		}
		d.rep.Steps = append(d.rep.Steps, line)
		fmt.Fprintf(d.cfg.Stdout, "         %s in %.1f s: %s\n", map[bool]string{true: "done", false: "FAILED"}[line.OK], line.Seconds, line.Detail)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (d *demo) steps() []step {
	return []step{
		{"create: a vault, two sites, two machines", d.create},
		{"a plain boot of both machines, three times", d.bareBoot},
		{"protect both as one group, first copy under load", d.protect},
		{"test failover into a network of its own", d.testFailover},
		{"clean up the test", d.testCleanup},
		{"change a machine: more memory, one more network card", d.changeMachine},
		{"the home site is lost", d.loseSite},
		{"unplanned failover to the newest point", d.failover},
		{"change to a moment before the machine was changed", d.toThePast},
		{"back to the newest point", d.toTheNewest},
		{"the standby's gateway is killed and restarted under the machines", d.killStandby},
		{"commit while the machines run", d.commit},
		{"the old machine is started by hand, then its gateway returns", d.oldPrimary},
		{"reprotect: home becomes the standby", d.reprotect},
		{"more writes", d.moreWrites},
		{"planned failback", d.failback},
		{"commit the failback: the cloud machines are deleted", d.commitFailback},
		{"reprotect again: protected as in the beginning", d.secondReprotect},
	}
}

// operate runs an operation on the group and waits for its job.
func (d *demo) operate(ctx context.Context, op lifecycle.Operation, r rest.OperationRequest) (rest.Job, error) {
	job, err := d.w.Client.Operate(ctx, client.GroupTarget(groupName), op, r)
	if err != nil {
		return job, err
	}
	return d.waitJob(ctx, job.ID)
}

func (d *demo) waitJob(ctx context.Context, id dr.JobID) (rest.Job, error) {
	job, err := d.w.Client.WaitJob(ctx, id, nil)
	if err != nil {
		return job, err
	}
	if job.State != rest.JobSucceeded && job.State != rest.JobWarning {
		if len(job.Errors) > 0 {
			p := job.Errors[0]
			return job, fmt.Errorf("job %s %s: %w", job.Operation, job.State, &p)
		}
		return job, fmt.Errorf("job %s %s", job.Operation, job.State)
	}
	return job, nil
}

// waitState waits until the group is in a state.
func (d *demo) waitState(ctx context.Context, want lifecycle.State) error {
	return poll(ctx, stepTimeout, "state "+string(want), func() error {
		g, err := d.w.Client.Group(ctx, groupName)
		if err != nil {
			return err
		}
		if g.State != want {
			return fmt.Errorf("it is %s: %s", g.State, g.Problem)
		}
		return nil
	})
}

// awaitBoots waits for a new boot of both guests and remembers them.
func (d *demo) awaitBoots(ctx context.Context, after time.Time) (map[string]collector.Session, error) {
	out := map[string]collector.Session{}
	for _, g := range []string{firstGuest, secondGuest} {
		s, err := d.w.Collector.WaitBoot(ctx, g, after)
		if err != nil {
			return nil, err
		}
		d.boots[g] = s.Boot
		out[g] = s
	}
	return out, nil
}

// firstRecord waits until every guest's present boot has written a record of
// its own, and returns when the first one was received.
func (d *demo) firstRecord(ctx context.Context) (time.Time, error) {
	var first time.Time
	for _, boot := range d.boots {
		ack, err := d.w.Collector.WaitNewRecord(ctx, boot)
		if err != nil {
			return first, err
		}
		if first.IsZero() || ack.Wall.Before(first) {
			first = ack.Wall
		}
	}
	return first, nil
}

// ledgers waits for the ledgers that the present boots found on their disks.
func (d *demo) ledgers(ctx context.Context) (map[string]*ledger.Ledger, error) {
	out := map[string]*ledger.Ledger{}
	for g, boot := range d.boots {
		if _, err := d.w.Collector.WaitLedger(ctx, boot); err != nil {
			return nil, err
		}
		l, ok := d.w.Collector.Ledger(boot)
		if !ok {
			return nil, problem.New(problem.InternalError, "the ledger of %s is not there", g)
		}
		out[g] = l
	}
	return out, nil
}

// keepLineage makes the present boots part of the history that counts.
func (d *demo) keepLineage() {
	for g, b := range d.boots {
		d.lineage[g] = append(d.lineage[g], b)
	}
}

// waitRate waits until all guests together acknowledge so many records a second.
func (d *demo) waitRate(ctx context.Context, want float64) error {
	return poll(ctx, time.Minute, fmt.Sprintf("%.0f records a second", want), func() error {
		if r := d.w.Collector.Rate("", time.Second); r < want {
			return fmt.Errorf("%.0f", r)
		}
		return nil
	})
}

// sleep waits for a time that is part of the scenario.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
