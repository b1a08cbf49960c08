package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rebound/test/bench/report"
	"rebound/test/bench/rig"
)

// The load of the axes about a stream that is not saturated.
const streamBytes = 50_000_000 // a second

// rpo measures how old the newest moment is that could be recovered, while
// 50 MB/s of random writes go on.
func rpo(ctx context.Context, b *bench) error {
	host, u, standby, err := b.ours(ctx, rig.Options{})
	if err != nil {
		return err
	}
	l := rig.Load{Block: "16k", Depth: 8, Bytes: streamBytes, Seconds: b.seconds + 2}
	var p50, p99 []float64
	for i := range b.pairs {
		settle()
		var wg sync.WaitGroup
		var lerr error
		var lags []float64
		wg.Go(func() {
			lags, lerr = standby.Lag(ctx, rig.LagArgs{Group: u.Group(), Seconds: b.seconds, Every: 5 * time.Millisecond})
		})
		r, err := b.Fio(ctx, fmt.Sprintf("ours-%d", i), l, host.URI())
		wg.Wait()
		if err != nil {
			return err
		}
		if lerr != nil {
			return lerr
		}
		if r.Bytes < 0.9*streamBytes {
			return fmt.Errorf("fio reached %.0f MB/s of %d", r.Bytes/1e6, streamBytes/1_000_000)
		}
		if err := u.Verify(ctx); err != nil {
			return err
		}
		p50, p99 = append(p50, report.Percentile(lags, 50)), append(p99, report.Percentile(lags, 99))
	}
	with := func(a *report.Axis) {
		a.Verified = b.pairs
		a.Note = fmt.Sprintf("a beacon every %v, so that its age alone is half of that in the median", rig.BeaconEvery)
	}
	if err := b.add("rpo_p50_ms", p50, nil, with); err != nil {
		return err
	}
	return b.add("rpo_p99_ms", p99, nil, with)
}

// rssDisks is how many disks the memory axis protects.
const rssDisks = 10

// memory measures what captures and standby take with ten machines of one disk
// each under 50 MB/s in total.
func memory(ctx context.Context, b *bench) error {
	standby, err := b.NewStandby(ctx)
	if err != nil {
		return err
	}
	size := max(b.size()/rssDisks, 16<<20) &^ (1<<20 - 1)
	var all []*rig.Ours
	var uris []string
	for i := range rssDisks {
		host, err := b.NewHost(ctx, fmt.Sprintf("vm%d", i), size, "")
		if err != nil {
			return err
		}
		u, err := b.NewOurs(ctx, host, standby, rig.Options{})
		if err != nil {
			return err
		}
		if err := u.Begin(ctx); err != nil {
			return err
		}
		all, uris = append(all, u), append(uris, host.URI())
	}
	settle()
	l := rig.Load{Block: "16k", Depth: 4, Bytes: streamBytes / rssDisks, Seconds: 2 * b.seconds}
	sampling, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var most taken
	var merr error
	wg.Go(func() { most, merr = largest(sampling, standby, all) })
	_, err = b.Fio(ctx, "ours", l, uris...)
	stop()
	wg.Wait()
	if err != nil {
		return err
	}
	if merr != nil {
		return merr
	}
	for _, u := range all {
		if err := u.Verify(ctx); err != nil {
			return err
		}
	}
	return b.add("gateway_rss_mib", []float64{most.resident()}, nil, func(a *report.Axis) {
		a.Verified = rssDisks
		a.Extra = map[string]float64{
			"standby_mib": most.standby.Resident, "captures_mib": most.captures.Resident,
			"standby_anonymous_mib": most.standby.Anonymous, "captures_anonymous_mib": most.captures.Anonymous,
		}
		a.Note = fmt.Sprintf("ten groups: one standby process (%.0f MiB) and ten capture processes (%.0f MiB, of which the program that all share counts ten times: %.0f MiB without mapped files), without the control side of the two gateways",
			most.standby.Resident, most.captures.Resident, most.captures.Anonymous)
	})
}

// taken is what the processes take at one time.
type taken struct{ standby, captures rig.Memory }

func (t taken) resident() float64 { return t.standby.Resident + t.captures.Resident }

// largest samples the memory until ctx ends and returns the most.
func largest(ctx context.Context, standby *rig.Standby, all []*rig.Ours) (most taken, err error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var t taken
		if t.standby, t.captures, err = rig.MemoryOfAll(standby, all); err != nil {
			return most, err
		}
		if t.resident() > most.resident() {
			most = t
		}
		select {
		case <-ctx.Done():
			return most, nil
		case <-tick.C:
		}
	}
}

// views measures views of a long history.
func views(ctx context.Context, b *bench) error {
	standby, err := b.NewStandby(ctx)
	if err != nil {
		return err
	}
	h, err := standby.View(ctx, rig.HistoryArgs{DiskBytes: 100 << 30, Extents: b.extents, Opens: b.pairs + 3})
	if err != nil {
		return err
	}
	note := fmt.Sprintf("%d extents of history, which took %.0f s to make", b.extents, h.MakeSeconds)
	err = b.add("view_open_ms", h.OpenMS, nil, func(a *report.Axis) { a.Note = note + "; until the first 4 KiB are read" })
	if err != nil {
		return err
	}
	err = b.add("view_rss_mib", []float64{h.JournalMiB + h.ViewMiB}, nil, func(a *report.Axis) {
		a.Extra = map[string]float64{"journal_mib": h.JournalMiB, "one_view_mib": h.ViewMiB}
		a.Note = fmt.Sprintf("the process with the journal (%.0f MiB) and one view (%.0f MiB)", h.JournalMiB, h.ViewMiB)
	})
	if err != nil {
		return err
	}
	l := rig.Load{Block: "4k", Depth: 1, Read: true, Seconds: b.seconds}
	var ours, peer []float64
	read := func(name, uri string, out *[]float64) func(int) error {
		return func(i int) error {
			r, err := b.Fio(ctx, fmt.Sprintf("%s-%d", name, i), l, uri)
			*out = append(*out, float64(r.P50)/float64(time.Microsecond))
			return err
		}
	}
	err = alternate(b.pairs, read("view", standby.ViewURI(), &ours), read("plain", standby.FileURI(), &peer))
	if err != nil {
		return err
	}
	return b.add("view_read_us", ours, peer, func(a *report.Axis) {
		a.Note = "the goal's number is read as a ratio; the plain file is sparse"
	})
}
