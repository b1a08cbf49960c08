package main

import (
	"context"
	"fmt"
	"time"

	"rebound/test/bench/report"
	"rebound/test/bench/rig"
)

// saturated is what is said of loads that the standby may not keep up with.
const saturated = "where the standby does not keep up, the source is held back instead of shedding load"

// ours starts a host and Rebound's data path behind it, with everything copied.
func (b *bench) ours(ctx context.Context, o rig.Options) (*rig.Host, *rig.Ours, *rig.Standby, error) {
	standby, err := b.NewStandby(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	host, err := b.NewHost(ctx, "ours", b.size(), "")
	if err != nil {
		return nil, nil, nil, err
	}
	u, err := b.NewOurs(ctx, host, standby, o)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := u.Begin(ctx); err != nil {
		return nil, nil, nil, err
	}
	return host, u, standby, u.Fold(ctx)
}

// mirrored starts a host that mirrors into memory.
func (b *bench) mirrored(ctx context.Context) (*rig.Host, error) {
	host, err := b.NewHost(ctx, "peer", b.size(), "")
	if err != nil {
		return nil, err
	}
	t, err := b.Memory(ctx, b.size())
	if err != nil {
		return nil, err
	}
	return host, host.Mirror(ctx, t)
}

// write measures writes at full speed against the same mirror into memory.
// After each run of ours the newest view must equal the source.
func write(l rig.Load) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		l.Seconds = b.seconds
		mine, u, _, err := b.ours(ctx, rig.Options{BackPressure: true})
		if err != nil {
			return err
		}
		other, err := b.mirrored(ctx)
		if err != nil {
			return err
		}
		value := func(r rig.Result) float64 {
			if l.Block == "4k" {
				return r.IOPS
			}
			return r.Bytes / 1e6
		}
		var ours, peer []float64
		err = alternate(b.pairs, func(i int) error {
			r, err := b.Fio(ctx, fmt.Sprintf("ours-%d", i), l, mine.URI())
			if err != nil {
				return err
			}
			ours = append(ours, value(r))
			if err := u.Verify(ctx); err != nil {
				return err
			}
			return u.Fold(ctx)
		}, func(i int) error {
			r, err := b.Fio(ctx, fmt.Sprintf("peer-%d", i), l, other.URI())
			peer = append(peer, value(r))
			return err
		})
		if err != nil {
			return err
		}
		s, err := u.Status(ctx)
		if err != nil {
			return err
		}
		return b.add(b.specs[0].Name, ours, peer, func(a *report.Axis) {
			a.Verified, a.Note = b.pairs, saturated
			a.Extra = map[string]float64{"delayed_s": s.Counters.Delayed.Seconds()}
		})
	}
}

// p99Half measures the latency at half of the rate that the disk reaches
// without any mirror.
func p99Half(l rig.Load) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		l.Seconds = b.seconds
		bare, err := b.NewHost(ctx, "bare", b.size(), "")
		if err != nil {
			return err
		}
		settle()
		full, err := b.Fio(ctx, "no-mirror-full", l, bare.URI())
		if err != nil {
			return err
		}
		l.IOPS = max(int(full.IOPS/2), 1)
		mine, u, _, err := b.ours(ctx, rig.Options{BackPressure: true})
		if err != nil {
			return err
		}
		other, err := b.mirrored(ctx)
		if err != nil {
			return err
		}
		var ours, peer, none, reached []float64
		us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
		err = alternate(b.pairs, func(i int) error {
			r, err := b.Fio(ctx, fmt.Sprintf("ours-%d", i), l, mine.URI())
			if err != nil {
				return err
			}
			ours, reached = append(ours, us(r.P99)), append(reached, r.IOPS)
			if err := u.Verify(ctx); err != nil {
				return err
			}
			return u.Fold(ctx)
		}, func(i int) error {
			r, err := b.Fio(ctx, fmt.Sprintf("peer-%d", i), l, other.URI())
			if err != nil {
				return err
			}
			peer = append(peer, us(r.P99))
			settle()
			r, err = b.Fio(ctx, fmt.Sprintf("no-mirror-%d", i), l, bare.URI())
			none = append(none, us(r.P99))
			return err
		})
		if err != nil {
			return err
		}
		return b.add(b.specs[0].Name, ours, peer, func(a *report.Axis) {
			a.Verified = b.pairs
			a.Extra = map[string]float64{
				"no_mirror_us": report.Median(none), "asked_iops": float64(l.IOPS), "reached_iops": report.Median(reached),
			}
			a.Note = fmt.Sprintf("at %d writes a second; without a mirror %.0f us; ours reached %.0f writes a second", l.IOPS, report.Median(none), report.Median(reached))
		})
	}
}

// throughput measures random writes until they are durable at the standby,
// against a mirror into a remote file.
func throughput(l rig.Load, codec string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		l.Seconds = b.seconds
		mine, u, _, err := b.ours(ctx, rig.Options{Codec: codec, BackPressure: true})
		if err != nil {
			return err
		}
		certs, err := b.NewCerts()
		if err != nil {
			return err
		}
		other, err := b.NewHost(ctx, "peer", b.size(), certs.Dir)
		if err != nil {
			return err
		}
		remote, err := b.NewFileServer(ctx, "remote", b.size(), certs)
		if err != nil {
			return err
		}
		if err := other.Mirror(ctx, remote.Target); err != nil {
			return err
		}
		rate := func(r rig.Result, rest time.Duration) float64 {
			return r.Total / 1e6 / (r.Runtime + rest).Seconds()
		}
		var ours, peer []float64
		err = alternate(b.pairs, func(i int) error {
			r, err := b.Fio(ctx, fmt.Sprintf("ours-%d", i), l, mine.URI())
			if err != nil {
				return err
			}
			rest, err := u.Drain(ctx)
			if err != nil {
				return err
			}
			ours = append(ours, rate(r, rest))
			if err := u.Verify(ctx); err != nil {
				return err
			}
			return u.Fold(ctx)
		}, func(i int) error {
			r, rest, err := b.flushed(ctx, remote, func() (rig.Result, error) {
				return b.Fio(ctx, fmt.Sprintf("peer-%d", i), l, other.URI())
			})
			peer = append(peer, rate(r, rest))
			return err
		})
		if err != nil {
			return err
		}
		return b.add(b.specs[0].Name, ours, peer, func(a *report.Axis) {
			a.Verified = b.pairs
			a.Note = "codec " + codec + "; both until the last write is durable; " + saturated
		})
	}
}

// flushed runs a load while the remote file is flushed once a second, and then
// flushes it for the last time; it returns how long that took.
func (b *bench) flushed(ctx context.Context, remote *rig.FileServer, load func() (rig.Result, error)) (rig.Result, time.Duration, error) {
	flushing, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- remote.FlushEvery(flushing, time.Second) }()
	r, err := load()
	begin := time.Now()
	stop()
	if ferr := <-done; err == nil {
		err = ferr
	}
	if err != nil {
		return r, 0, err
	}
	err = remote.Flush(ctx)
	return r, time.Since(begin), err
}
