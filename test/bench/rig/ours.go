package rig

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"rebound/internal/capture"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/resync"
)

// BeaconEvery is the time between beacons, the gateway's.
const BeaconEvery = 100 * time.Millisecond

// Options of Ours.
type Options struct {
	// Codec is "none" or "s2".
	Codec string
	// BackPressure lets the source wait for the standby as long as it takes,
	// for loads that are meant to saturate it; else the limits are those of
	// the product, which sheds load in the end.
	BackPressure bool
}

// backPressure slows the source down to what the standby takes: a write is held
// back by up to half a second, for as long as it is needed.
func backPressure() capture.Limits {
	return capture.Limits{MaxWriteDelay: 500 * time.Millisecond, MaxTotalDelay: time.Hour}
}

// Ours is Rebound's data path for one host's disk: a capture process of the
// shipped binary, driven as a gateway does it, that ships over TLS to the
// standby process.
type Ours struct {
	host    *Host
	standby *Standby
	group   dr.GroupID
	proc    *capture.Process
	run     string

	confirming sync.Mutex // beacons one at a time
	stop       context.CancelFunc
	stopped    chan struct{}
}

// NewOurs makes the group's journal and starts its capture process. Nothing is
// captured yet.
func (r *Rig) NewOurs(ctx context.Context, host *Host, standby *Standby, o Options) (*Ours, error) {
	u := &Ours{host: host, standby: standby, group: dr.GroupID("g-" + host.name), run: filepath.Join(r.run, "c-"+host.name)}
	disks := []dr.GroupDisk{{Machine: dr.MachineName(host.name), Disk: "disk", SizeBytes: host.Size}}
	if err := standby.call(ctx, "Create", GroupArgs{u.group, disks}, &Nothing{}); err != nil {
		return nil, err
	}
	out, err := r.rawFile("capture.log")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	argv := []string{r.Rebound, "capture", "--dir", u.run}
	if r.Profiles != "" {
		argv = []string{r.Self, CaptureCommand, u.run, r.profile("capture-" + host.name)}
	}
	u.proc, err = capture.Start(ctx, capture.SupervisorConfig{Dir: u.run, Argv: argv, Output: out})
	if err != nil {
		return nil, fmt.Errorf("start capture: %w", err)
	}
	r.onClose(u.close)
	cfg := capture.GroupConfig{
		Group: u.group, Generation: 1, Disks: disks, Gateway: "source", Standby: standby.name, StandbyAddr: standby.addr,
		Identity: standby.source, Compression: o.Codec,
	}
	if o.BackPressure {
		cfg.Limits = backPressure()
	}
	if err := u.proc.Client().Configure(ctx, cfg); err != nil {
		return nil, err
	}
	return u, nil
}

func (u *Ours) close() error {
	u.stopBeacons()
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	// In order, so that a profile is written.
	if err := u.proc.Client().Shutdown(ctx); err == nil {
		select {
		case <-u.proc.Done():
		case <-ctx.Done():
		}
	}
	u.proc.Kill()
	return nil
}

// Attach begins to capture: mirror, epoch. A synchronisation comes next.
func (u *Ours) Attach(ctx context.Context) error {
	if err := u.host.Mirror(ctx, Target{Socket: capture.NBDSocket(u.run), Export: capture.ExportName(0)}); err != nil {
		return err
	}
	_, err := u.proc.Client().Open(ctx)
	return err
}

// Detach seals the stream and ends the mirror.
func (u *Ours) Detach(ctx context.Context) error {
	u.stopBeacons()
	if _, err := u.proc.Client().Drain(ctx); err != nil {
		return err
	}
	if _, err := u.proc.Client().Seal(ctx, "the benchmark detaches"); err != nil {
		return err
	}
	return u.host.Unmirror(ctx)
}

// syncPoll is how often a synchronisation that tells nothing is looked at.
const syncPoll = 5 * time.Millisecond

// Sync synchronises and waits until all of it is durable at the standby. nil
// ranges mean the whole disk.
func (u *Ours) Sync(ctx context.Context, mode resync.Mode, ranges []extent.Range) (capture.SyncStatus, error) {
	cl := u.proc.Client()
	disk := capture.SyncDisk{Socket: u.host.sock, Export: guestName, All: ranges == nil, Ranges: ranges}
	if err := cl.Sync(ctx, capture.SyncRequest{Mode: mode, Disks: []capture.SyncDisk{disk}}); err != nil {
		return capture.SyncStatus{}, err
	}
	tick := time.NewTicker(syncPoll)
	defer tick.Stop()
	for {
		s, err := cl.Status(ctx)
		if err != nil {
			return s.Sync, err
		}
		if !s.Sync.Running {
			if s.Sync.Error != nil {
				return s.Sync, s.Sync.Error
			}
			_, err = cl.Drain(ctx)
			return s.Sync, err
		}
		select {
		case <-ctx.Done():
			return s.Sync, ctx.Err()
		case <-tick.C:
		}
	}
}

// startBeacons confirms the stream at the gateway's pace until it is detached.
// Like the gateway it bears that the ring has no room for a while; a stream that
// has broken is found by the next Drain.
func (u *Ours) startBeacons(ctx context.Context) {
	ctx, u.stop = context.WithCancel(ctx)
	u.stopped = make(chan struct{})
	go func() {
		defer close(u.stopped)
		tick := time.NewTicker(BeaconEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = u.Confirm(ctx)
			}
		}
	}()
}

func (u *Ours) stopBeacons() {
	if u.stop != nil {
		u.stop()
		<-u.stopped
		u.stop = nil
	}
}

// Confirm places one beacon: a moment, the question whether the mirror still
// stands, the confirmation.
func (u *Ours) Confirm(ctx context.Context) error {
	u.confirming.Lock()
	defer u.confirming.Unlock()
	cl := u.proc.Client()
	p, err := cl.Probe(ctx)
	if err != nil {
		return err
	}
	if err := u.host.Mirroring(ctx); err != nil {
		return err
	}
	_, err = cl.Confirm(ctx, p)
	return err
}

// Begin attaches, copies everything, waits until that is confirmed, and starts
// the beacons.
func (u *Ours) Begin(ctx context.Context) error {
	if err := u.Attach(ctx); err != nil {
		return err
	}
	if _, err := u.Sync(ctx, resync.ModeCopy, nil); err != nil {
		return err
	}
	if _, err := u.Drain(ctx); err != nil {
		return err
	}
	u.startBeacons(ctx)
	return nil
}

// patience is for how long the ring may have no room for a beacon once the load
// has ended.
const patience = 10 * time.Second

// Drain confirms the present moment and waits until it is durable at the
// standby. It returns how long that took, and fails when the stream has broken.
func (u *Ours) Drain(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	for {
		err := u.Confirm(ctx)
		if err == nil {
			break
		}
		if time.Since(begin) > patience || ctx.Err() != nil {
			return 0, errors.Join(err, u.why(ctx))
		}
		time.Sleep(BeaconEvery)
	}
	_, err := u.proc.Client().Drain(ctx)
	return time.Since(begin), err
}

// ended tells why the capture process has ended, if it has.
func (u *Ours) ended() error {
	select {
	case <-u.proc.Done():
		return fmt.Errorf("the capture process of %s has ended: %v", u.host.name, u.proc.Err())
	default:
		return nil
	}
}

// why tells why an epoch was sealed, if it was.
func (u *Ours) why(ctx context.Context) error {
	if err := u.ended(); err != nil {
		return err
	}
	s, err := u.proc.Client().Status(ctx)
	if err != nil || s.State == capture.StateOpen {
		return err
	}
	return fmt.Errorf("the stream is %s at %s: %s", s.State, s.Head, s.Reason)
}

// Verify demands that the newest view at the standby equals the source; nothing
// may write meanwhile.
func (u *Ours) Verify(ctx context.Context) error {
	if _, err := u.Drain(ctx); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	disk, err := u.host.Guest(ctx)
	if err != nil {
		return err
	}
	defer disk.Close()
	want, err := hashDevice(ctx, disk)
	if err != nil {
		return err
	}
	var got Hashed
	if err := u.standby.call(ctx, "Hash", GroupArgs{Group: u.group}, &got); err != nil {
		return err
	}
	if got.Sum != want {
		return fmt.Errorf("the view at %s differs from the source: hash %s, want %s", got.Position, got.Sum, want)
	}
	return nil
}

// Fold empties the standby's journal into the base.
func (u *Ours) Fold(ctx context.Context) error {
	var freed int64
	return u.standby.call(ctx, "Fold", GroupArgs{Group: u.group}, &freed)
}

// End ends the capture process and deletes the group's journal; the disk is
// detached.
func (u *Ours) End(ctx context.Context) error {
	u.stopBeacons()
	u.proc.Kill()
	return u.standby.call(ctx, "Drop", GroupArgs{Group: u.group}, &Nothing{})
}

// Status is the capture process's.
func (u *Ours) Status(ctx context.Context) (capture.Status, error) {
	return u.proc.Client().Status(ctx)
}

// Group is the name of the group at the standby.
func (u *Ours) Group() dr.GroupID { return u.group }

// MemoryOfAll is what a data path's processes take: the standby process, and
// all captures together.
func MemoryOfAll(standby *Standby, all []*Ours) (ofStandby, ofCaptures Memory, err error) {
	ofStandby, err = MemoryOf(standby.proc.pid())
	errs := []error{err}
	for _, u := range all {
		if err := u.ended(); err != nil {
			return ofStandby, ofCaptures, err
		}
		m, err := MemoryOf(u.proc.PID())
		errs = append(errs, err)
		ofCaptures.Resident += m.Resident
		ofCaptures.Anonymous += m.Anonymous
	}
	return ofStandby, ofCaptures, errors.Join(errs...)
}
