package capture

import "rebound/internal/dr"

// stateNow returns the state of the stream.
func (q *sequencer) stateNow() State {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.state
}

// missingNow returns a disk without a socket.
func (q *sequencer) missingNow() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.missing()
}

// fill writes what the sequencer knows into a status.
func (q *sequencer) fill(s *Status) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.State, s.Head, s.Durable, s.Confirmed, s.Reason = q.state, q.position(), q.durable, q.lastN, q.reason
	s.Counters = q.counters
	s.Counters.RingBytes, s.Counters.RingLimit = q.used, q.limits.RingBytes
	s.Disks = make([]DiskStatus, len(q.disks))
	for i := range q.disks {
		s.Disks[i] = DiskStatus{Export: ExportName(i), Conns: q.disks[i].conns}
	}
}

// status writes what the group knows into s.
func (g *group) status(s *Status) {
	g.q.fill(s)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Configured = true
	s.Group, s.Generation, s.Standby, s.StandbyAddr = g.cfg.Group, g.cfg.Generation, g.cfg.Standby, g.cfg.StandbyAddr
	s.NBDSocket = g.nbdPath
	s.Opened, s.Link, s.Sync, s.Route = g.opened, g.link, g.synced, g.going
	if g.sync != nil {
		s.Sync = g.sync.status()
	}
	s.Counters.PayloadBytes, s.Counters.CompressedBytes = g.payload.Load(), g.packed.Load()
	s.Counters.SentBytes = g.sockets.Sent() + g.sockets.Received()
	s.Counters.Reconnects = g.redial
}

// same reports whether cfg changes nothing that an open epoch depends on.
func (g *group) same(cfg *GroupConfig) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return sameStream(&g.cfg, cfg)
}

// breakPosition returns the position of the newest entry; of a sealed stream
// that is its break.
func (q *sequencer) breakPosition() dr.Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.position()
}
