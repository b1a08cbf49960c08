package orchestrator

import (
	"context"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// foresight says what one operation would do, lose and delete, by asking the
// gateways and changing nothing.
type foresight func(ctx context.Context, r *run, out *rest.DryRun) error

// foresights returns one for every operation on a group.
func foresights() map[lifecycle.Operation]foresight {
	return map[lifecycle.Operation]foresight{
		lifecycle.Failover:          foreseeFailover,
		lifecycle.Failback:          foreseeFailover,
		lifecycle.ChangePoint:       foreseeChangePoint,
		lifecycle.TestFailover:      foreseeTest,
		lifecycle.TestCleanup:       foreseeCleanup,
		lifecycle.Undo:              foreseeUndo,
		lifecycle.Commit:            foreseeCommit,
		lifecycle.CompleteMigration: foreseeMigration,
		lifecycle.Reprotect:         foreseeReprotect,
		lifecycle.Disable:           foreseeDisable,
		lifecycle.Pause:             foreseePause,
		lifecycle.Resume:            foreseeResume,
		lifecycle.Resync:            foreseeResync,
		lifecycle.Verify:            foreseeVerify,
		lifecycle.CreatePoint:       foreseePoint,
	}
}

// foresee fills a dry run in.
func (r *run) foresee(ctx context.Context, out *rest.DryRun) error {
	f, ok := foresights()[r.job.Operation]
	if !ok {
		return problem.New(problem.InvalidRequest, "there is no operation %q", r.job.Operation)
	}
	if err := f(ctx, r, out); err != nil {
		return err
	}
	out.Confirm = confirmation(*out)
	return nil
}

// confirmation is what is typed before something is lost or deleted.
func confirmation(out rest.DryRun) *rest.Confirmation {
	switch {
	case len(out.Deletes) > 0:
		return &rest.Confirmation{Type: out.Target, Because: "it deletes " + listing(out.Deletes)}
	case len(out.Loses) > 0:
		return &rest.Confirmation{Type: out.Target, Because: "it loses " + listing(out.Loses)}
	}
	return nil
}

// listing names a few things and counts the rest.
func listing(names []string) string {
	const few = 3
	text := ""
	for i, n := range names {
		if i == few {
			return fmt.Sprintf("%s and %d more", text, len(names)-few)
		}
		if i > 0 {
			text += ", "
		}
		text += n
	}
	return text
}

// lose adds what lies after the chosen moment, and what never arrived.
func (r *run) lose(out *rest.DryRun, planned bool) {
	res := out.Recovered
	if res.LostSeconds > 0 || res.LostBytes > 0 {
		out.Loses = append(out.Loses, fmt.Sprintf("%s of received history, %d bytes of writes", span(res.LostSeconds), res.LostBytes))
	}
	if planned {
		return
	}
	out.NotReceivedSeconds = r.o.notReceived(&r.group)
	if s := out.NotReceivedSeconds; s != nil {
		out.Loses = append(out.Loses, fmt.Sprintf("what the source wrote in the last %s, as far as it has not arrived", span(*s)))
	}
	if len(res.Members) > 0 {
		out.Warnings = append(out.Warnings, notTogether)
	}
}

// notReceived is how old the newest received moment of a group is, nil when
// that is not known.
func (o *Orchestrator) notReceived(g *store.Group) *float64 {
	return o.live.RPO(g, 0, o.now()).Seconds
}

func foreseeFailover(ctx context.Context, r *run, out *rest.DryRun) (err error) {
	if err := r.foreseeTargets(ctx, false, out); err != nil {
		return err
	}
	if out.Recovered, err = r.resolve(ctx, r.selector()); err != nil {
		return err
	}
	r.lose(out, r.planned())
	for _, m := range r.group.Members {
		out.Creates = append(out.Creates, fmt.Sprintf("machine %s runs at %s", m.Machine, r.group.StandbySite()))
		out.Keeps = append(out.Keeps, fmt.Sprintf("machine %s at %s, off, with its disks, until the commit", m.Machine, r.group.SourceSite()))
	}
	out.Warnings = append(out.Warnings, r.aboutVerification()...)
	if r.shutdown() == "skip" {
		out.Warnings = append(out.Warnings, "the source machines are not shut down; fencing stops them where it reaches them")
	}
	if !r.planned() && !r.o.up(r.group.Source()) {
		out.Warnings = append(out.Warnings, fmt.Sprintf("gateway %s is away: its machines are stopped when it returns", r.group.Source()))
	}
	return nil
}

// aboutVerification says what is known of the standby's content.
func (r *run) aboutVerification() []string {
	v := r.group.Verified
	switch {
	case v == nil:
		return []string{"the standby was never compared with the source in this direction ('verify' does that)"}
	case v.Differing > 0:
		return []string{fmt.Sprintf("when it was compared at %s, %d bytes of the standby differed from the source", v.At.Format(time.RFC3339), v.Differing)}
	}
	return nil
}

func foreseeChangePoint(ctx context.Context, r *run, out *rest.DryRun) (err error) {
	if err := r.foreseeTargets(ctx, false, out); err != nil {
		return err
	}
	if out.Recovered, err = r.resolve(ctx, r.selector()); err != nil {
		return err
	}
	r.lose(out, true)
	r.loseRecovered(out)
	for _, m := range r.group.Members {
		out.Creates = append(out.Creates, fmt.Sprintf("machine %s runs at %s, from that moment", m.Machine, r.group.StandbySite()))
	}
	if len(out.Recovered.Members) > 0 {
		out.Warnings = append(out.Warnings, notTogether)
	}
	return nil
}

// loseRecovered says what discarding the recovered machines loses.
func (r *run) loseRecovered(out *rest.DryRun) {
	for _, m := range r.group.Members {
		if m.Started {
			out.Loses = append(out.Loses, fmt.Sprintf("everything that %s wrote at %s since %s", m.Machine, r.group.StandbySite(), m.StartedAt.UTC().Format(time.RFC3339)))
		}
	}
}

func foreseeTest(ctx context.Context, r *run, out *rest.DryRun) (err error) {
	if err := r.foreseeTargets(ctx, true, out); err != nil {
		return err
	}
	if out.Recovered, err = r.resolve(ctx, r.selector()); err != nil {
		return err
	}
	network := r.request().Network
	if network == "" {
		network = "of its settings"
	}
	for _, m := range r.group.Members {
		out.Creates = append(out.Creates, fmt.Sprintf("machine %s-test at %s on the network %s", m.Machine, r.group.StandbySite(), network))
	}
	if len(out.Recovered.Members) > 0 {
		out.Warnings = append(out.Warnings, notTogether)
	}
	out.Keeps = append(out.Keeps, "the source machines and their replication, which go on")
	return nil
}

func foreseeCleanup(_ context.Context, r *run, out *rest.DryRun) error {
	for _, m := range r.group.Members {
		out.Deletes = append(out.Deletes, fmt.Sprintf("machine %s-test at %s, with what it wrote", m.Machine, r.group.StandbySite()))
	}
	out.Keeps = append(out.Keeps, "the source machines and their replication, which go on")
	return nil
}

func foreseeUndo(ctx context.Context, r *run, out *rest.DryRun) error {
	if err := checkSource(ctx, r); err != nil {
		return err
	}
	r.loseRecovered(out)
	for _, m := range r.group.Members {
		out.Creates = append(out.Creates, fmt.Sprintf("machine %s runs again at %s, with all that its disks hold there", m.Machine, r.group.SourceSite()))
	}
	out.Keeps = append(out.Keeps, fmt.Sprintf("all recovery points at %s", r.group.StandbySite()))
	return nil
}

// losePoints names the points that end with the journal.
func (r *run) losePoints(ctx context.Context, out *rest.DryRun) {
	res, err := r.standby().Points(control.WithPatience(ctx, 0), control.PointsRequest{Group: r.group.ID})
	if err != nil {
		out.Warnings = append(out.Warnings, fmt.Sprintf("all recovery points are deleted; how many cannot be told: %s", problem.Text(err)))
		return
	}
	out.Deletes = append(out.Deletes, namePoints(res.Points))
}

func foreseeCommit(ctx context.Context, r *run, out *rest.DryRun) error {
	if err := proveCommit(ctx, r); err != nil {
		return err
	}
	if proofs, ok := r.result["proof"].([]rest.Proof); ok {
		out.Proofs = proofs
	}
	out.Warnings = append(out.Warnings, "a commit is final: there is no way back to another moment, nor an undo")
	if lifecycle.State(r.job.FromState) != lifecycle.Committing {
		r.losePoints(ctx, out)
	}
	for _, m := range r.group.Members {
		out.Keeps = append(out.Keeps, fmt.Sprintf("machine %s, running at %s", m.Machine, r.group.StandbySite()))
	}
	if lifecycle.RulesFor(r.group.Direction).CommitDeletesSource {
		return r.foreseeDeletions(ctx, r.source(), !r.policy.DropSeed, out)
	}
	for _, m := range r.group.Members {
		out.Keeps = append(out.Keeps, fmt.Sprintf("machine %s, off at %s, as the target of a failback", m.Machine, r.group.SourceSite()))
	}
	return nil
}

func foreseeMigration(ctx context.Context, r *run, out *rest.DryRun) error {
	if err := foreseeCommit(ctx, r, out); err != nil {
		return err
	}
	out.Loses = append(out.Loses, "the way back: replication ends, and no failback is possible")
	return nil
}

func foreseeReprotect(ctx context.Context, r *run, out *rest.DryRun) error {
	e, err := r.provenEnds(ctx)
	if err != nil {
		return err
	}
	out.Transfer = transferOf(&r.group)
	_, there, err := r.inventory(ctx, r.o.gateways.Commands(e.MasterTarget.Gateway))
	if err != nil {
		return err
	}
	for _, m := range r.group.Members {
		other, ok := there[m.Machine]
		switch {
		case !ok:
			out.Creates = append(out.Creates, fmt.Sprintf("machine %s at %s, off, with empty disks that everything is copied to", m.Machine, r.group.StandbySite()))
			continue
		case other.State != site.Off:
			out.Warnings = append(out.Warnings, fmt.Sprintf("machine %s at %s is %s: it is powered off", m.Machine, r.group.StandbySite(), other.State))
		}
		out.Loses = append(out.Loses, fmt.Sprintf("what the disks of %s hold at %s and not at %s; it stays readable as the point diverged-%d until the next commit", m.Machine, r.group.StandbySite(), r.group.SourceSite(), r.group.Generation))
		out.Keeps = append(out.Keeps, fmt.Sprintf("machine %s at %s, off; it must stay off", m.Machine, r.group.StandbySite()))
	}
	return nil
}

func foreseeDisable(ctx context.Context, r *run, out *rest.DryRun) error {
	switch lifecycle.State(r.job.FromState) {
	case lifecycle.CommitPending:
		out.Warnings = append(out.Warnings, "the failover is committed as it is, without proof; the machines stay at "+string(r.group.StandbySite()))
		out.Loses = append(out.Loses, "the way back: the machines are failed over, and no failback is possible any more")
	case lifecycle.FailoverFailed:
		out.Warnings = append(out.Warnings, fmt.Sprintf("the failover had not ended: its machines are discarded, and those at %s stay off until somebody starts them", r.group.SourceSite()))
		r.loseRecovered(out)
	default:
		if r.group.SourceSite() != r.group.Home {
			out.Loses = append(out.Loses, "the way back: the machines are failed over, and no failback is possible any more")
		}
	}
	for _, m := range r.group.Members {
		out.Keeps = append(out.Keeps, fmt.Sprintf("machine %s at %s, which is protected no more", m.Machine, r.group.Active))
	}
	if r.request().Force {
		out.Warnings = append(out.Warnings, "forced: a site that is away keeps its journal, and machines there are not fenced any more when it returns")
	}
	if lifecycle.State(r.job.FromState) != lifecycle.Committed {
		r.losePoints(ctx, out)
	}
	if len(tasksNamed(r.job, "delete-journal")) == 0 {
		return nil
	}
	return r.foreseeStandby(ctx, out)
}

// foreseeStandby names the machines of the standby that go with its journal.
func (r *run) foreseeStandby(ctx context.Context, out *rest.DryRun) error {
	_, there, err := r.inventory(r.forcePatience(ctx), r.standby())
	if err != nil {
		return r.forceful(out, err)
	}
	for _, m := range r.group.Members {
		found, ok := there[m.Machine]
		if !ok {
			continue
		}
		if keepStandby(&r.group) {
			out.Keeps = append(out.Keeps, fmt.Sprintf("machine %s at %s, off, with its disks", m.Machine, r.group.StandbySite()))
			continue
		}
		out.Deletes = append(out.Deletes, fmt.Sprintf("machine %s at %s", m.Machine, r.group.StandbySite()))
		for _, d := range found.Definition.Disks {
			out.Deletes = append(out.Deletes, fmt.Sprintf("disk %s of %s at %s", d.ID, m.Machine, r.group.StandbySite()))
		}
	}
	return nil
}

// forceful turns a site that is away into a warning where that is accepted.
func (r *run) forceful(out *rest.DryRun, err error) error {
	if !r.request().Force {
		return err
	}
	out.Warnings = append(out.Warnings, problem.Text(err))
	return nil
}

func foreseePause(_ context.Context, r *run, out *rest.DryRun) error {
	out.Warnings = append(out.Warnings, "until it is resumed no recovery point is made and what the machines write is not at the standby; what changes is remembered")
	out.Keeps = append(out.Keeps, fmt.Sprintf("all recovery points at %s", r.group.StandbySite()))
	return nil
}

func foreseeResume(_ context.Context, r *run, out *rest.DryRun) error {
	out.Warnings = append(out.Warnings, "what changed during the pause is sent first; new recovery points are made after that")
	out.Keeps = append(out.Keeps, fmt.Sprintf("all recovery points at %s", r.group.StandbySite()))
	return nil
}

func foreseeResync(_ context.Context, r *run, out *rest.DryRun) error {
	out.Warnings = append(out.Warnings, fmt.Sprintf("%d bytes are read and compared at both sites; new recovery points are made after that", r.diskBytes()))
	out.Keeps = append(out.Keeps, fmt.Sprintf("all recovery points at %s", r.group.StandbySite()))
	return nil
}

func foreseeVerify(_ context.Context, r *run, out *rest.DryRun) error {
	out.Warnings = append(out.Warnings, fmt.Sprintf("%d bytes are read and compared at both sites; nothing is changed", r.diskBytes()))
	return nil
}

func foreseePoint(_ context.Context, r *run, out *rest.DryRun) error {
	kind := "crash-consistent"
	if r.request().AppConsistent {
		kind = "application-consistent, with the guests' file systems frozen for a moment,"
	}
	out.Creates = append(out.Creates, fmt.Sprintf("recovery point %s: %s", r.request().Name, kind))
	return nil
}

func (r *run) diskBytes() (n int64) {
	for _, d := range r.group.Disks {
		n += d.SizeBytes
	}
	return n
}

// foreseeDeletions names what a site would delete.
func (r *run) foreseeDeletions(ctx context.Context, c control.Commands, keepDisks bool, out *rest.DryRun) error {
	for _, m := range r.group.Members {
		d, err := c.DeleteMachine(ctx, r.origin(string(m.Machine)), control.DeleteRequest{Machine: m.Machine, KeepDisks: keepDisks, DryRun: true})
		if problem.HasCode(err, problem.UnknownMachine) {
			out.Warnings = append(out.Warnings, fmt.Sprintf("machine %s is not at %s any more; somebody deleted it", m.Machine, r.group.SourceSite()))
			continue
		}
		if err != nil {
			return err
		}
		out.Deletes, out.Keeps = append(out.Deletes, d.Removed...), append(out.Keeps, d.Kept...)
	}
	return nil
}
