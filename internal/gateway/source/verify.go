package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/problem"
	"rebound/internal/resync"
)

// verifyLook is how often a running verification is looked at.
const verifyLook = 200 * time.Millisecond

// Verify compares the standby with the source, without sending, while the
// stream goes on.
func (g *Group) Verify(ctx context.Context) (control.VerifyResult, error) {
	run, err := g.runner()
	if err != nil {
		return control.VerifyResult{}, err
	}
	var cl *capture.Client
	err = run.do(ctx, func(c context.Context, a *attempt) error {
		cl = a.cl
		return a.startVerify(c)
	})
	if err != nil {
		return control.VerifyResult{}, err
	}
	tick := time.NewTicker(verifyLook)
	defer tick.Stop()
	for {
		st, err := cl.Status(ctx)
		if err != nil {
			return control.VerifyResult{}, fmt.Errorf("look at verification: %w", err)
		}
		s := st.Sync
		control.ReportProgress(ctx, control.Progress{Done: s.Done, Total: s.Total, Unit: "bytes"})
		if !s.Running && s.Error != nil {
			return control.VerifyResult{}, s.Error
		}
		if !s.Running {
			return control.VerifyResult{Bytes: s.Done, Differing: s.Differing, LeavesRead: s.Done / resync.Leaf}, nil
		}
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), hypervisorPatience)
			defer cancel()
			return control.VerifyResult{}, errors.Join(ctx.Err(), cl.CancelSync(end))
		case <-run.done:
			return control.VerifyResult{}, problem.New(problem.OperationNotAllowed, "replication of group %s has stopped", g.cfg.Group)
		case <-tick.C:
		}
	}
}

func (a *attempt) startVerify(ctx context.Context) error {
	if !a.streamed {
		return problem.New(problem.OperationNotAllowed, "group %s is being synchronised", a.g.cfg.Group)
	}
	req := capture.SyncRequest{Mode: resync.ModeCompare, Verify: true}
	for i, d := range a.spec.Disks {
		disk, err := a.syncDisk(ctx, i, d, resync.ModeCompare, nil)
		if err != nil {
			return err
		}
		req.Disks = append(req.Disks, disk)
	}
	return a.cl.Sync(ctx, req)
}
