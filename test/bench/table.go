package main

import (
	"rebound/test/bench/report"
	"rebound/test/bench/rig"
)

// Names of the peers.
const (
	memoryPeer = "the same mirror into nbdkit's memory"
	filePeer   = "QEMU mirror into a qemu-nbd file over TLS, flushed once a second"
	copyPeer   = "nbdcopy over TLS with --flush"
	plainPeer  = "plain file over the same NBD server"
)

// table is the table of goals.
func table() []measurement {
	return append(writes(), []measurement{
		{specs: []report.Spec{p99("p99_64k_half")}, run: p99Half(rig.Load{Block: "64k", Depth: 8})},
		{specs: []report.Spec{p99("p99_1m_half")}, run: p99Half(rig.Load{Block: "1m", Depth: 4})},
		{specs: []report.Spec{through("throughput_incompressible", 1.5)}, run: throughput(rig.Load{Block: "64k", Depth: 8, Fresh: true}, "none")},
		{specs: []report.Spec{through("throughput_half", 1.5)}, run: throughput(rig.Load{Block: "64k", Depth: 8, Half: true}, "s2")},
		{
			specs: []report.Spec{through("throughput_sustained", 0.7)},
			why:   "thinning is not there yet, so that ten minutes would measure folding alone",
		},
		{specs: []report.Spec{low("rpo_p50_ms", "ms", 50), low("rpo_p99_ms", "ms", 500)}, run: rpo},
		{
			specs: []report.Spec{
				low("view_open_ms", "ms", 300), low("view_rss_mib", "MiB", 64),
				{Name: "view_read_us", Unit: "us", Better: report.Lower, Goal: 3, GoalOf: report.OfRatio, PeerName: plainPeer},
			},
			run: views,
		},
		{
			specs: []report.Spec{low("rto_over_boot_s", "s", 1)},
			why:   "it needs guests and both gateways; make demo reports the times of a failover",
		},
		{
			specs: []report.Spec{
				{Name: "first_copy", Unit: "MB/s", Better: report.Higher, Goal: 0.9, GoalOf: report.OfRatio, PeerName: copyPeer},
				low("failback_bytes", "bytes sent / bytes that differ", 1.15),
				{Name: "failback_time", Unit: "s", Better: report.Lower, Goal: 0.1, GoalOf: report.OfRatio, PeerName: "full " + copyPeer},
			},
			run: copies,
		},
		{
			specs: []report.Spec{low("history_cost", "merged bytes / zstd bytes", 1.1)},
			why:   "thinning is not there yet: no history is merged",
		},
		{specs: []report.Spec{low("gateway_rss_mib", "MiB", 256)}, run: memory},
	}...)
}

// writes are the axes of a guest's writes.
func writes() []measurement {
	one := func(name, unit string, goal float64, l rig.Load) measurement {
		sp := report.Spec{Name: name, Unit: unit, Better: report.Higher, Goal: goal, GoalOf: report.OfRatio, PeerName: memoryPeer}
		return measurement{specs: []report.Spec{sp}, run: write(l)}
	}
	return []measurement{
		one("write_4k_qd1", "IOPS", 0.95, rig.Load{Block: "4k", Depth: 1}),
		one("write_4k_qd32", "IOPS", 0.95, rig.Load{Block: "4k", Depth: 32}),
		one("write_64k_qd8", "MB/s", 0.75, rig.Load{Block: "64k", Depth: 8}),
		one("write_1m_qd4", "MB/s", 0.75, rig.Load{Block: "1m", Depth: 4}),
	}
}

func low(name, unit string, goal float64) report.Spec {
	return report.Spec{Name: name, Unit: unit, Better: report.Lower, Goal: goal, GoalOf: report.OfOurs}
}

func p99(name string) report.Spec {
	return report.Spec{Name: name, Unit: "us", Better: report.Lower, Goal: 1.1, GoalOf: report.OfRatio, PeerName: memoryPeer}
}

func through(name string, goal float64) report.Spec {
	return report.Spec{Name: name, Unit: "MB/s", Better: report.Higher, Goal: goal, GoalOf: report.OfRatio, PeerName: filePeer}
}
