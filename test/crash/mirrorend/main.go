// Command mirrorend answers one question by experiment: which way of ending a
// write-blocking mirror job towards NBD never harms QEMU or its guest?
//
// It attaches mirrors to disks that fio writes to and ends them, again and
// again, in every way and under every load asked for. It prints one JSON line
// a combination and exits 1 when a host died or fio saw an error. Findings are
// kept in docs/qemu-mirror.md. Developers and the soak target run it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"
)

type options struct {
	hosts, ends, blocks, depths, disks, iothreads, slow, source string
	length                                                      time.Duration
	size                                                        int64
	keep                                                        bool
}

func main() {
	var o options
	flag.StringVar(&o.hosts, "hosts", "qsd,system", "programs that hold the disks")
	flag.StringVar(&o.ends, "ends", "all", "ways of ending; 'all', or names with commas")
	flag.StringVar(&o.blocks, "blocks", "4k,64k,1m", "fio block sizes")
	flag.StringVar(&o.depths, "depths", "1,16,32", "fio queue depths")
	flag.StringVar(&o.disks, "disks", "1,3", "disks a host")
	flag.StringVar(&o.iothreads, "iothreads", "false,true", "whether exports run in I/O threads")
	flag.StringVar(&o.slow, "slow", "0s,2ms", "delay of the mirror target's answers")
	flag.StringVar(&o.source, "source", "0s", "delay of the disk's own writes; more than 0s uses no file")
	flag.DurationVar(&o.length, "length", 2*time.Second, "time of one combination")
	flag.Int64Var(&o.size, "size", 4<<30, "disk size in bytes")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory (disks, core file) of a host that died")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	bad, err := sweep(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mirrorend:", err)
		os.Exit(2)
	}
	if bad > 0 {
		os.Exit(1)
	}
}

func sweep(ctx context.Context, o options) (bad int, err error) {
	trials, err := o.trials()
	if err != nil {
		return 0, err
	}
	byName := map[string]end{}
	for _, e := range ends() {
		byName[e.name] = e
	}
	out := json.NewEncoder(os.Stdout)
	for _, t := range trials {
		if ctx.Err() != nil {
			return bad, ctx.Err()
		}
		res := t.run(ctx, byName[t.End], o.size, o.length, o.keep)
		if res.Crashed || res.GuestError || res.Detail != "" {
			bad++
		}
		if err := out.Encode(res); err != nil {
			return bad, err
		}
	}
	return bad, nil
}

// trials returns the product of all options, less what cannot be.
func (o options) trials() ([]trial, error) {
	list := []trial{{}}
	each := func(text string, put func(t *trial, v string) error) error {
		var next []trial
		for _, t := range list {
			for v := range strings.SplitSeq(text, ",") {
				u := t
				if err := put(&u, v); err != nil {
					return err
				}
				next = append(next, u)
			}
		}
		list = next
		return nil
	}
	steps := []struct {
		text string
		put  func(t *trial, v string) error
	}{
		{o.hosts, func(t *trial, v string) error { t.Host = hostKind(v); return nil }},
		{o.blocks, func(t *trial, v string) error { t.Load.Block = v; return nil }},
		{o.depths, func(t *trial, v string) (err error) { t.Load.Depth, err = strconv.Atoi(v); return err }},
		{o.disks, func(t *trial, v string) (err error) { t.Disks, err = strconv.Atoi(v); return err }},
		{o.iothreads, func(t *trial, v string) (err error) { t.IOThreads, err = strconv.ParseBool(v); return err }},
		{o.slow, func(t *trial, v string) (err error) { t.SlowSink, err = time.ParseDuration(v); return err }},
		{o.source, func(t *trial, v string) (err error) { t.SlowSource, err = time.ParseDuration(v); return err }},
	}
	for _, s := range steps {
		if err := each(s.text, s.put); err != nil {
			return nil, err
		}
	}
	return withEnds(list, o.ends)
}

func withEnds(list []trial, names string) ([]trial, error) {
	var out []trial
	found := 0
	for _, e := range ends() {
		if names != "all" && !strings.Contains(","+names+",", ","+e.name+",") {
			continue
		}
		found++
		for _, t := range list {
			if e.onlyQEMU && t.Host == storageDaemon {
				continue
			}
			t.End = e.name
			out = append(out, t)
		}
	}
	if found == 0 {
		return nil, fmt.Errorf("no such way of ending: %s", names)
	}
	return out, nil
}
