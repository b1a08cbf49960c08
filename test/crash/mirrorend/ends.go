package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"rebound/internal/qmp"
)

// end is one way of ending a mirror. do starts the end for disk i; what
// follows (waiting for the job, deleting the node) is the same for all.
type end struct {
	name string
	// onlyQEMU ways need qemu-system (yank does not exist in the daemon).
	onlyQEMU bool
	// onError is the mirror's on-target-error; empty is "report".
	onError string
	do      func(ctx context.Context, h *host, i int, s *sink) error
}

func job(i int) string    { return fmt.Sprintf("rebound-job-%d", i) }
func target(i int) string { return fmt.Sprintf("rebound-target-%d", i) }

func cancel(ctx context.Context, h *host, i int, force bool) error {
	err := h.mon.Run(ctx, "block-job-cancel", map[string]any{"device": job(i), "force": force}, nil)
	if qmp.HasClass(err, qmp.DeviceNotActive) {
		return nil
	}
	return err
}

func yank(ctx context.Context, h *host, i int) error {
	return qmp.Yank(ctx, h.mon, qmp.YankInstance{Type: "block-node", NodeName: target(i)})
}

func set(m mood) func(context.Context, *host, int, *sink) error {
	return func(_ context.Context, _ *host, _ int, s *sink) error {
		s.mood.Store(int32(m))
		return nil
	}
}

// muted waits until the sink holds requests that it will not answer.
func muted(ctx context.Context, s *sink) error {
	s.mood.Store(int32(mute))
	before := s.writes.Load()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.writes.Load() == before {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func ends() []end {
	list := append(plainEnds(), stopEnds()...)
	for i := range list {
		if list[i].onError == "" {
			list[i].onError = "report"
		}
	}
	return list
}

// jobState is what query-block-jobs shows of a job.
type jobState struct {
	Device string `json:"device"`
	Status string `json:"io-status"`
	Ready  bool   `json:"ready"`
}

// ready: only then is a cancel without force soft; before, it counts as forced.
func (j jobState) ready() bool  { return j.Ready }
func (j jobState) failed() bool { return j.Status != "ok" }

// state waits until the job of disk i is in a state.
func state(ctx context.Context, h *host, i int, is func(jobState) bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var jobs []jobState
		if err := h.mon.Run(ctx, "query-block-jobs", nil, &jobs); err != nil {
			return err
		}
		for _, j := range jobs {
			if j.Device == job(i) && is(j) {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// takeOver lets QEMU connect again to a sink that answers everything, and ends
// the job softly.
func takeOver(ctx context.Context, h *host, i int, s *sink) error {
	if err := state(ctx, h, i, jobState.failed); err != nil {
		return fmt.Errorf("wait for failure to show: %w", err)
	}
	if err := s.takeOver(); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		// A write that was under way to the old connection can fail late
		// and pause the job once more, before the cancel or after it.
		gone, err := softly(ctx, h, i)
		if gone || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// softly resumes and cancels the job where it can and reports whether it ended.
func softly(ctx context.Context, h *host, i int) (gone bool, err error) {
	err = h.mon.Run(ctx, "block-job-resume", map[string]any{"device": job(i)}, nil)
	if err != nil && !qmp.Refused(err) {
		return false, err
	}
	var jobs []jobState
	if err := h.mon.Run(ctx, "query-block-jobs", nil, &jobs); err != nil {
		return false, err
	}
	k := slices.IndexFunc(jobs, func(j jobState) bool { return j.Device == job(i) })
	if k < 0 {
		return true, nil
	}
	if !jobs[k].Ready {
		return false, nil
	}
	if err := cancel(ctx, h, i, false); err != nil && !qmp.Refused(err) {
		return false, err
	}
	return false, nil
}

// stopEnds are for mirrors with on-target-error=stop: a failed target pauses
// the job and does not end it.
func stopEnds() []end {
	return []end{
		{name: "stop-close", onError: "stop", do: func(ctx context.Context, h *host, i int, s *sink) error {
			s.cut()
			return takeOver(ctx, h, i, s)
		}},
		{name: "stop-mute-close", onError: "stop", do: func(ctx context.Context, h *host, i int, s *sink) error {
			if err := muted(ctx, s); err != nil {
				return err
			}
			s.cut()
			return takeOver(ctx, h, i, s)
		}},
		{name: "stop-eio", onError: "stop", do: func(ctx context.Context, h *host, i int, s *sink) error {
			s.mood.Store(int32(eioAll))
			return takeOver(ctx, h, i, s)
		}},
		{name: "ignore-close", onError: "ignore", do: func(ctx context.Context, h *host, i int, s *sink) error {
			s.cut()
			if err := s.takeOver(); err != nil {
				return err
			}
			return cancel(ctx, h, i, false)
		}},
		{name: "stop-yank", onlyQEMU: true, onError: "stop", do: func(ctx context.Context, h *host, i int, s *sink) error {
			if err := muted(ctx, s); err != nil {
				return err
			}
			if err := yank(ctx, h, i); err != nil {
				return err
			}
			return takeOver(ctx, h, i, s)
		}},
	}
}

func plainEnds() []end {
	return []end{
		{name: "cancel", do: func(ctx context.Context, h *host, i int, _ *sink) error { return cancel(ctx, h, i, false) }},
		{name: "cancel-force", do: func(ctx context.Context, h *host, i int, _ *sink) error { return cancel(ctx, h, i, true) }},
		{name: "close", do: func(_ context.Context, _ *host, _ int, s *sink) error { s.cut(); return nil }},
		{name: "eio-one", do: set(eioOne)},
		{name: "eio-all", do: set(eioAll)},
		{name: "eio-close", do: func(_ context.Context, _ *host, _ int, s *sink) error {
			s.mood.Store(int32(eioAll))
			s.cut()
			return nil
		}},
		{name: "close-cancel", do: func(ctx context.Context, h *host, i int, s *sink) error {
			go s.cut()
			return cancel(ctx, h, i, true)
		}},
		{name: "eio-cancel", do: func(ctx context.Context, h *host, i int, s *sink) error {
			s.mood.Store(int32(eioAll))
			return cancel(ctx, h, i, true)
		}},
		{name: "mute-close", do: func(ctx context.Context, _ *host, _ int, s *sink) error {
			if err := muted(ctx, s); err != nil {
				return err
			}
			s.cut()
			return nil
		}},
		{name: "yank", onlyQEMU: true, do: func(ctx context.Context, h *host, i int, _ *sink) error { return yank(ctx, h, i) }},
		{name: "mute-yank", onlyQEMU: true, do: func(ctx context.Context, h *host, i int, s *sink) error {
			if err := muted(ctx, s); err != nil {
				return err
			}
			return yank(ctx, h, i)
		}},
	}
}

// events are those that a round waits for. A paused mirror reports one error a
// write; noting them all would measure our parser.
func (e end) events() []string {
	names := []string{"BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"}
	if e.onError == "report" {
		names = append(names, "BLOCK_JOB_ERROR")
	}
	return names
}
