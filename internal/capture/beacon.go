package capture

import (
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"time"

	"rebound/internal/dr"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// Probe is a moment of an open stream: all that arrived before Wall has a
// number up to N.
type Probe struct {
	Generation dr.Generation `json:"generation"`
	Epoch      dr.Epoch      `json:"epoch"`
	Wall       time.Time     `json:"wall"` // the source's clock, never going back
	Mono       time.Duration `json:"mono"` // the process's monotonic clock
	N          dr.Seq        `json:"n"`
}

// probe takes the present moment. It fails unless the stream is open and every
// disk has a socket.
func (q *sequencer) probe() (Probe, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.whole(); err != nil {
		return Probe{}, err
	}
	wall, mono := q.stamps.now()
	return Probe{q.gen, q.epoch, wall, mono, q.head}, nil
}

// whole reports why the stream cannot be confirmed now.
func (q *sequencer) whole() error {
	if q.state != StateOpen {
		return errNotOpen
	}
	if name, ok := q.missing(); ok && !sabotageConfirmLate {
		return fmt.Errorf("%w: disk %s is not attached", errRefused, name)
	}
	return nil
}

// confirm appends the beacon of a probe, if the stream has been whole since.
// The caller has asked the hypervisors in between whether they still send.
//
// That answer alone is not enough: a mirror whose socket has failed lets its
// guest go on before its job is gone from the hypervisor's list. But the socket
// is closed before the guest's write completes, so the kernel is asked for
// closed sockets last: if there is none now, there was none at the probe.
func (q *sequencer) confirm(p Probe) (dr.Position, error) {
	data, err := segment.Beacon{Wall: p.Wall, Mono: p.Mono, N: p.N}.MarshalBinary()
	if err != nil {
		return dr.Position{}, fmt.Errorf("encode beacon: %w", err)
	}
	if err := q.sockets(); err != nil && !sabotageConfirmLate {
		return dr.Position{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.whole(); err != nil {
		return dr.Position{}, err
	}
	switch {
	case p.Epoch != q.epoch || p.Generation != q.gen:
		return dr.Position{}, fmt.Errorf("%w: probe of epoch %d, now %d", errRefused, p.Epoch, q.epoch)
	case p.N > q.head || p.N < q.lastN || p.Wall.Before(q.lastWall):
		return dr.Position{}, fmt.Errorf("%w: probe at %d is out of order", errRefused, p.N)
	case q.full(1):
		return dr.Position{}, fmt.Errorf("%w: the ring is full", errRefused)
	}
	q.lastN, q.lastWall = p.N, p.Wall
	q.put(slot{kind: segment.KindBeacon, data: data, cost: entryCost})
	q.signal()
	return q.position(), nil
}

// position returns the position of the newest entry.
func (q *sequencer) position() dr.Position {
	return dr.Position{Generation: q.gen, Epoch: q.epoch, Seq: q.head}
}

// control appends an entry that is no guest's write.
func (q *sequencer) control(kind segment.Kind, payload encoding.BinaryMarshaler) (dr.Position, error) {
	return q.controlIn(0, kind, payload)
}

// controlIn is control, refused unless epoch is open; 0 stands for any.
func (q *sequencer) controlIn(epoch dr.Epoch, kind segment.Kind, payload encoding.BinaryMarshaler) (dr.Position, error) {
	data, err := payload.MarshalBinary()
	if err != nil {
		return dr.Position{}, fmt.Errorf("encode %s: %w", kind, err)
	}
	if len(data) > segment.MaxPayload {
		return dr.Position{}, fmt.Errorf("append %s: %d bytes, limit %d", kind, len(data), segment.MaxPayload)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state != StateOpen || (epoch != 0 && epoch != q.epoch) {
		return dr.Position{}, errNotOpen
	}
	if q.full(1) {
		return dr.Position{}, fmt.Errorf("append %s: the ring is full", kind)
	}
	q.put(slot{kind: kind, data: data, cost: entryCost + int64(len(data))})
	q.signal()
	return q.position(), nil
}

// marker places a recovery point; its time is the source's present one.
func (q *sequencer) marker(id dr.PointID, kind dr.PointKind, name string) (dr.Point, error) {
	wall, _ := q.stamps.now()
	at, err := q.control(segment.KindMarker, segment.Marker{ID: id, Kind: kind, Name: name, Time: wall})
	if err != nil {
		return dr.Point{}, err
	}
	return dr.Point{ID: id, Kind: kind, Name: name, Position: at, Time: wall}, nil
}

// thawed labels a marker of the open epoch.
func (g *group) thawed(p dr.Point) (dr.Position, error) {
	g.mu.Lock()
	version := g.opened.LinkVersion
	g.mu.Unlock()
	if version < link.Version2 {
		return dr.Position{}, problem.New(problem.OperationNotAllowed, "the standby's gateway is older than this one and knows no application-consistent points; upgrade it")
	}
	return g.q.controlIn(p.Position.Epoch, segment.KindThawed, segment.Thawed{ID: p.ID, Name: p.Name})
}

// definition records a machine's definition as of now.
func (q *sequencer) definition(def dr.Definition) (dr.Position, error) {
	text, err := json.Marshal(def)
	if err != nil {
		return dr.Position{}, fmt.Errorf("encode definition of %s: %w", def.Name, err)
	}
	return q.control(segment.KindDefinition, segment.Definition{Machine: def.Name, JSON: text})
}

// drain waits until all up to the newest entry as of now is durable, and
// returns its position. It fails when ctx ends or another epoch begins.
func (q *sequencer) drain(ctx context.Context) (dr.Position, error) {
	q.mu.Lock()
	goal := q.position()
	for {
		epoch, durable, moved := q.epoch, q.durable, q.moved
		q.mu.Unlock()
		switch {
		case epoch != goal.Epoch:
			return dr.Position{}, fmt.Errorf("drain epoch %d: epoch %d began", goal.Epoch, epoch)
		case durable >= goal.Seq:
			return goal, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return dr.Position{}, fmt.Errorf("drain to %v: durable up to %d: %w", goal, durable, ctx.Err())
		}
		q.mu.Lock()
	}
}
