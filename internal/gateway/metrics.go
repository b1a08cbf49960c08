package gateway

import (
	"context"
	"strings"

	"rebound/internal/metrics"
)

// MetricDefs is the table of what a gateway tells Prometheus, its captures
// included: their numbers are those of the gateway's last look at them.
func MetricDefs() []metrics.Def {
	group := []string{"group"}
	counter := func(name, help string) metrics.Def {
		return metrics.Def{Name: name, Help: help, Counter: true, Labels: group}
	}
	gauge := func(name, help string) metrics.Def { return metrics.Def{Name: name, Help: help, Labels: group} }
	return []metrics.Def{
		{Name: "rebound_volume_free_bytes", Help: "Free room of a file system that the gateway writes to.", Labels: []string{"path", "uses"}},
		{Name: "rebound_volume_size_bytes", Help: "Size of a file system that the gateway writes to.", Labels: []string{"path", "uses"}},
		{Name: "rebound_source_phase", Help: "1, with the phase of the group at its source.", Labels: []string{"group", "phase"}},
		counter("rebound_capture_writes_total", "Writes of guests that the capture recorded, since its process began."),
		counter("rebound_capture_raw_bytes_total", "Bytes of guests' writes that the capture recorded."),
		counter("rebound_capture_discards_total", "Discards of guests that were dropped."),
		counter("rebound_capture_unrecorded_total", "Requests answered while nothing was recorded."),
		counter("rebound_capture_delay_seconds_total", "Time for which writes were held back because the ring filled."),
		gauge("rebound_capture_ring_bytes", "Bytes in the ring: not confirmed by the standby."),
		gauge("rebound_capture_ring_limit_bytes", "Room of the ring."),
		gauge("rebound_spool_bytes", "Bytes in the spool: waiting on disk for the standby."),
		gauge("rebound_capture_durable_sequence", "Number of the newest write that is durable at the standby, in its epoch."),
		counter("rebound_link_payload_bytes_total", "Bytes put into frames, those sent again included."),
		counter("rebound_link_compressed_bytes_total", "The same after compression."),
		counter("rebound_link_sent_bytes_total", "Bytes on the data connections, both directions."),
		counter("rebound_link_reconnects_total", "How often the connection to the standby was made anew."),
		counter("rebound_resync_bytes_total", "Bytes that synchronisations sent."),
		gauge("rebound_resync_done_bytes", "How far the present synchronisation is."),
		gauge("rebound_resync_size_bytes", "How much the present synchronisation looks at."),
		gauge("rebound_source_breaks", "How often replication broke within the last hour."),
		gauge("rebound_capture_restarts", "How often the capture process ended by itself within the last hour."),
		gauge("rebound_source_unprotected_disks", "Disks of members that are not replicated."),
		{Name: "rebound_standby_phase", Help: "1, with the phase of the group at its standby.", Labels: []string{"group", "phase"}},
		gauge("rebound_journal_bytes", "Size of the group's redo on disk."),
		gauge("rebound_journal_segments", "Files of the group's redo."),
		gauge("rebound_journal_points", "Recovery points that are kept."),
		gauge("rebound_journal_full", "1 while the journal takes nothing more, to keep its reserve."),
		gauge("rebound_journal_confirmed_timestamp_seconds", "The newest confirmed moment, by the source's clock."),
		gauge("rebound_journal_fold_anchor_sequence", "The position up to which the disks are folded, in its epoch."),
		counter("rebound_journal_stale_frames_total", "Frames refused because their generation was old."),
		gauge("rebound_views", "Views of the journal that are served."),
	}
}

// MetricSource reads the gateway's numbers. Nothing is counted for it between two
// readings: they are those of the reports.
func (g *Gateway) MetricSource() metrics.Source {
	return metrics.Source{Defs: MetricDefs(), Read: func(ctx context.Context, emit metrics.Emit) error {
		for _, v := range g.hostReport(ctx).Volumes {
			uses := strings.Join(v.Uses, ",")
			emit("rebound_volume_free_bytes", float64(v.FreeBytes), v.Path, uses)
			emit("rebound_volume_size_bytes", float64(v.TotalBytes), v.Path, uses)
		}
		g.sourceMetrics(emit)
		g.standbyMetrics(emit)
		return nil
	}}
}

func (g *Gateway) sourceMetrics(emit metrics.Emit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, s := range g.sources {
		r, c, name := s.Report(), s.Counters(), string(id)
		emit("rebound_source_phase", 1, name, string(r.Phase))
		for metric, v := range map[string]float64{
			"rebound_capture_writes_total": float64(c.Writes), "rebound_capture_raw_bytes_total": float64(c.RawBytes),
			"rebound_capture_discards_total": float64(c.Discards), "rebound_capture_unrecorded_total": float64(c.Unrecorded),
			"rebound_capture_delay_seconds_total": c.Delayed.Seconds(), "rebound_capture_ring_bytes": float64(c.RingBytes),
			"rebound_capture_ring_limit_bytes": float64(c.RingLimit), "rebound_spool_bytes": float64(r.Counters.SpoolBytes),
			"rebound_capture_durable_sequence": float64(r.Durable.Seq), "rebound_link_payload_bytes_total": float64(c.PayloadBytes),
			"rebound_link_compressed_bytes_total": float64(c.CompressedBytes), "rebound_link_sent_bytes_total": float64(c.SentBytes),
			"rebound_link_reconnects_total": float64(c.Reconnects), "rebound_resync_bytes_total": float64(c.SyncBytes),
			"rebound_resync_done_bytes": float64(r.Sync.Done), "rebound_resync_size_bytes": float64(r.Sync.Total),
			"rebound_source_breaks": float64(r.BreaksLastHour), "rebound_capture_restarts": float64(r.CaptureRestarts),
			"rebound_source_unprotected_disks": float64(len(r.Unprotected)),
		} {
			emit(metric, v, name)
		}
	}
}

func (g *Gateway) standbyMetrics(emit metrics.Emit) {
	for _, r := range g.standby.Reports() {
		emit("rebound_standby_phase", 1, string(r.Group), string(r.Phase))
	}
	for id, st := range g.standby.Journals() {
		name := string(id)
		full := 0.0
		if st.NoRoom {
			full = 1
		}
		emit("rebound_journal_bytes", float64(st.Bytes), name)
		emit("rebound_journal_segments", float64(st.Segments), name)
		emit("rebound_journal_points", float64(st.Points), name)
		emit("rebound_journal_full", full, name)
		emit("rebound_journal_fold_anchor_sequence", float64(st.Anchor.Seq), name)
		emit("rebound_journal_stale_frames_total", float64(st.StaleFrames), name)
		emit("rebound_views", float64(len(st.Views)), name)
		if !st.ConfirmedTime.IsZero() {
			emit("rebound_journal_confirmed_timestamp_seconds", float64(st.ConfirmedTime.UnixMilli())/1000, name)
		}
	}
}
