package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// openEnd is the end of a synchronisation that has not ended.
const openEnd = dr.Seq(1<<64 - 1)

// syncWindow is a synchronisation: positions in [Begin, End) are not offered.
type syncWindow struct {
	Begin dr.Seq `json:"begin"`
	End   dr.Seq `json:"end"`
}

// epochState is what the journal knows of one epoch.
type epochState struct {
	Generation dr.Generation `json:"generation"`
	Epoch      dr.Epoch      `json:"epoch"`
	Last       dr.Seq        `json:"last"`      // durable
	Confirmed  dr.Seq        `json:"confirmed"` // the highest N of its beacons
	Syncs      []syncWindow  `json:"syncs,omitempty"`
	Broken     bool          `json:"broken,omitempty"`
}

func (e *epochState) at(n dr.Seq) dr.Position {
	return dr.Position{Generation: e.Generation, Epoch: e.Epoch, Seq: n}
}

// offered reports whether the position after entry n can be chosen: it is
// confirmed, an earlier synchronisation of the epoch has ended, and none is
// going on.
func (e *epochState) offered(n dr.Seq) bool {
	if n == 0 || n > e.Confirmed || n > e.Last || len(e.Syncs) == 0 || n < e.Syncs[0].End {
		return false
	}
	for _, w := range e.Syncs {
		if n >= w.Begin && n < w.End {
			return false
		}
	}
	return true
}

// newest returns the newest offered seq that is not after n, or 0.
func (e *epochState) newest(n dr.Seq) dr.Seq {
	n = min(n, e.Confirmed, e.Last)
	for i := len(e.Syncs) - 1; i >= 0; i-- {
		if w := e.Syncs[i]; n >= w.Begin && n < w.End {
			n = w.Begin - 1
		}
	}
	if !e.offered(n) {
		return 0
	}
	return n
}

// beaconRecord is one beacon of the time index.
type beaconRecord struct {
	gen   dr.Generation
	epoch dr.Epoch
	n     dr.Seq
	wall  time.Time
	bytes int64 // of guest writes received up to this entry
}

func (b *beaconRecord) position() dr.Position {
	return dr.Position{Generation: b.gen, Epoch: b.epoch, Seq: b.n}
}

// history is what the journal derives from the control entries of its stream.
// Only durable entries are applied. It does no I/O and is guarded by its owner.
type history struct {
	epochs      []epochState // oldest first
	beacons     []beaconRecord
	points      []dr.Point
	definitions []machineVersion
	synced      bool // a synchronisation has overwritten something
}

// control is a control entry with what the stream looked like at it.
type control struct {
	pos   dr.Position
	kind  segment.Kind
	data  []byte
	bytes int64
}

// begin makes an epoch the present one.
func (h *history) begin(gen dr.Generation, epoch dr.Epoch) *epochState {
	if n := len(h.epochs); n > 0 && h.epochs[n-1].Epoch == epoch {
		return &h.epochs[n-1]
	}
	h.epochs = append(h.epochs, epochState{Generation: gen, Epoch: epoch})
	return &h.epochs[len(h.epochs)-1]
}

// apply takes one control entry.
func (h *history) apply(c control) error {
	e := h.begin(c.pos.Generation, c.pos.Epoch)
	n := c.pos.Seq
	e.Last = max(e.Last, n)
	switch c.kind {
	case segment.KindBeacon:
		var b segment.Beacon
		if err := b.UnmarshalBinary(c.data); err != nil {
			return fmt.Errorf("entry %v: %w", c.pos, err)
		}
		b.N = min(b.N, n)
		e.Confirmed = max(e.Confirmed, b.N)
		h.beacons = append(h.beacons, beaconRecord{e.Generation, e.Epoch, b.N, b.Wall, c.bytes})
	case segment.KindMarker:
		var m segment.Marker
		if err := m.UnmarshalBinary(c.data); err != nil {
			return fmt.Errorf("entry %v: %w", c.pos, err)
		}
		h.points = append(h.points, dr.Point{ID: m.ID, Kind: m.Kind, Name: m.Name, Position: c.pos, Time: m.Time})
	case segment.KindDefinition:
		var d segment.Definition
		if err := d.UnmarshalBinary(c.data); err != nil {
			return fmt.Errorf("entry %v: %w", c.pos, err)
		}
		h.define(machineVersion{d.Machine, c.pos, json.RawMessage(d.JSON)})
	case segment.KindThawed:
		var t segment.Thawed
		if err := t.UnmarshalBinary(c.data); err != nil {
			return fmt.Errorf("entry %v: %w", c.pos, err)
		}
		h.thawed(e.Epoch, t)
	case segment.KindSyncBegin:
		if w := len(e.Syncs); w == 0 || e.Syncs[w-1].End != openEnd {
			e.Syncs = append(e.Syncs, syncWindow{n, openEnd})
		}
	case segment.KindSyncEnd:
		if w := len(e.Syncs); w > 0 && e.Syncs[w-1].End == openEnd {
			e.Syncs[w-1].End = n
		}
	case segment.KindBreak:
		e.Broken = true
		if sabotageConfirmPastBreak {
			e.Confirmed = n
		}
	}
	return nil
}

// thawed labels a marker of the epoch as application-consistent. One that was
// pruned meanwhile stays so.
func (h *history) thawed(epoch dr.Epoch, t segment.Thawed) {
	for i := len(h.points) - 1; i >= 0; i-- {
		if p := &h.points[i]; p.ID == t.ID && p.Position.Epoch == epoch {
			p.Kind, p.Name = dr.AppConsistent, t.Name
			return
		}
	}
}

// define adds a version of a machine; one that is the same as the last is not
// kept, so that a source may repeat it as often as it likes.
func (h *history) define(v machineVersion) {
	for i := len(h.definitions) - 1; i >= 0; i-- {
		if d := &h.definitions[i]; d.Machine == v.Machine {
			if bytes.Equal(d.JSON, v.JSON) {
				return
			}
			break
		}
	}
	h.definitions = append(h.definitions, v)
}

// advance says that all up to p is durable.
func (h *history) advance(p dr.Position) {
	e := h.begin(p.Generation, p.Epoch)
	e.Last = max(e.Last, p.Seq)
}

// epochOf returns the state of a position's epoch, or nil.
func (h *history) epochOf(p dr.Position) *epochState {
	i, ok := slices.BinarySearchFunc(h.epochs, p.Epoch, func(e epochState, want dr.Epoch) int {
		switch {
		case e.Epoch < want:
			return -1
		case e.Epoch > want:
			return 1
		}
		return 0
	})
	if !ok || h.epochs[i].Generation != p.Generation {
		return nil
	}
	return &h.epochs[i]
}

// offered reports whether p can be chosen as far as the stream is concerned.
func (h *history) offered(p dr.Position) bool {
	e := h.epochOf(p)
	return e != nil && e.offered(p.Seq)
}

// newest returns the newest offered position that is not after p; the zero
// position asks for the newest of all. It returns the zero position for none.
func (h *history) newest(p dr.Position) dr.Position {
	for i := len(h.epochs) - 1; i >= 0; i-- {
		e := &h.epochs[i]
		n := openEnd
		if !p.IsZero() {
			if p.Before(e.at(1)) {
				continue
			}
			if p.Epoch == e.Epoch {
				n = p.Seq
			}
		}
		if n = e.newest(n); n != 0 {
			return e.at(n)
		}
	}
	return dr.Position{}
}

// timeOf returns the newest moment of which p holds everything, and the guest
// bytes received until then.
func (h *history) timeOf(p dr.Position) (wall time.Time, received int64) {
	for i := len(h.beacons) - 1; i >= 0; i-- {
		if b := &h.beacons[i]; !p.Before(b.position()) {
			return b.wall, b.bytes
		}
	}
	return time.Time{}, 0
}

// definitionsAt returns each machine's newest definition at p.
func (h *history) definitionsAt(p dr.Position) []machineVersion {
	var out []machineVersion
	for _, d := range h.definitions {
		if p.Before(d.Position) {
			break
		}
		i := slices.IndexFunc(out, func(o machineVersion) bool { return o.Machine == d.Machine })
		if i < 0 {
			out = append(out, d)
		} else {
			out[i] = d
		}
	}
	return out
}

// anchorAt returns what must be kept of the history up to p.
func (h *history) anchorAt(p dr.Position) anchor {
	a := anchor{Position: p, Definitions: h.definitionsAt(p)}
	a.Time, _ = h.timeOf(p)
	for _, pt := range h.points {
		if pt.Position == p {
			a.Points = append(a.Points, pt)
		}
	}
	if e := h.epochOf(p); e != nil {
		a.Epoch = epochState{Generation: e.Generation, Epoch: e.Epoch, Last: p.Seq, Confirmed: min(e.Confirmed, p.Seq)}
		for _, w := range e.Syncs {
			if w.Begin > p.Seq {
				break
			}
			if w.End > p.Seq {
				w.End = openEnd
			}
			a.Epoch.Syncs = append(a.Epoch.Syncs, w)
		}
	}
	return a
}

// restore begins a history at an anchor.
func (h *history) restore(a *anchor) {
	*h = history{points: slices.Clone(a.Points), definitions: slices.Clone(a.Definitions)}
	if a.Epoch.Epoch != 0 {
		e := a.Epoch
		e.Syncs = slices.Clone(e.Syncs)
		h.epochs = append(h.epochs, e)
	}
	if !a.Time.IsZero() {
		p := a.Position
		h.beacons = append(h.beacons, beaconRecord{p.Generation, p.Epoch, p.Seq, a.Time, 0})
	}
}

// prune forgets what lies before the anchor.
func (h *history) prune(a *anchor) {
	p := a.Position
	h.epochs = slices.DeleteFunc(h.epochs, func(e epochState) bool { return e.Epoch < p.Epoch })
	h.points = slices.DeleteFunc(h.points, func(pt dr.Point) bool { return pt.Position.Before(p) })
	wall, received := h.timeOf(p)
	h.beacons = slices.DeleteFunc(h.beacons, func(b beaconRecord) bool { return b.position().Compare(p) <= 0 })
	if !wall.IsZero() {
		h.beacons = slices.Insert(h.beacons, 0, beaconRecord{p.Generation, p.Epoch, p.Seq, wall, received})
	}
	later := slices.DeleteFunc(h.definitions, func(d machineVersion) bool { return d.Position.Compare(p) <= 0 })
	h.definitions = append(slices.Clone(a.Definitions), later...)
}
