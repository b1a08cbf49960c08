package capture

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// State of a group's stream.
type State string

// The states. In all but StateOpen writes are answered with success and not
// recorded; bitmaps at the source remember them.
const (
	StateIdle   State = "idle"   // no epoch since the process was configured
	StateOpen   State = "open"   // writes get numbers
	StateSealed State = "sealed" // the epoch ended with a break
)

var (
	errNotOpen = errors.New("capture: the stream is not open")
	errRefused = errors.New("capture: the moment cannot be confirmed")
)

// maxReason is the longest reason of a break that is kept, in bytes.
const maxReason = 512

// releaser is memory that goes back where it came from; an *nbd.Buffer is one.
type releaser interface{ Release() }

// slot is one entry in the ring.
type slot struct {
	off, length int64
	data        []byte
	owner       releaser // of data; nil if the collector of garbage is
	cost        int64    // bytes of memory that the entry holds
	disk        uint16
	kind        segment.Kind
	flags       segment.Flags
}

// diskState is what the sequencer knows of one disk of the group.
type diskState struct {
	name  string // for reasons: "machine/disk"
	conns int    // open sockets
}

// liveObserver is told of each live write as it gets its number, under the
// sequencer's lock.
type liveObserver func(seq dr.Seq, disk uint16, off, length int64)

// sequencer numbers the entries of one group and keeps them in its ring until
// they are durable at the standby. Its lock is held for moments only; nothing
// is waited for under it.
type sequencer struct {
	clock  Clock
	stamps *stamper
	limits Limits
	// wake tells the sender that there is something new; it holds one.
	wake chan struct{}
	// onSeal is called after the stream was sealed, without the lock.
	onSeal func(at dr.Position, reason string)
	// sockets asks the kernel whether all clients still hold their ends.
	sockets func() error

	mu       sync.Mutex
	state    State
	gen      dr.Generation
	epoch    dr.Epoch
	head     dr.Seq // newest number
	durable  dr.Seq
	reason   string // of the break
	slots    []slot // entry n lies in slots[n%len]
	used     int64  // bytes held by entries
	throttle throttle
	held     holder
	syncMark int64 // ring bytes up to which a synchronisation may add
	diverted bool  // the stream does not go to the standby
	disks    []diskState
	live     liveObserver
	lastWall time.Time     // of the newest beacon
	lastN    dr.Seq        // of the newest beacon
	moved    chan struct{} // closed when the durable position or the state moves
	counters Counters
}

// Counters of a capture process since it was configured; bytes unless said
// otherwise.
type Counters struct {
	Writes     int64         `json:"writes"`     // guest requests recorded
	RawBytes   int64         `json:"rawBytes"`   // of guest writes recorded
	SyncBytes  int64         `json:"syncBytes"`  // of synchronisation entries recorded
	Discards   int64         `json:"discards"`   // TRIM requests recorded
	Unrecorded int64         `json:"unrecorded"` // requests answered outside an epoch
	Delayed    time.Duration `json:"delayed"`    // sum of the delays imposed on writes
	RingBytes  int64         `json:"ringBytes"`  // held now
	RingLimit  int64         `json:"ringLimit"`  // room of the ring

	PayloadBytes    int64 `json:"payloadBytes"`    // put into frames, resent ones included
	CompressedBytes int64 `json:"compressedBytes"` // of frames
	SentBytes       int64 `json:"sentBytes"`       // on the data sockets, both directions
	Reconnects      int64 `json:"reconnects"`
}

// slotMargin is how many entries beyond the ring's share may be in it: what
// guests have in flight (16 requests a disk with QEMU), and entries of control.
const slotMargin = 8192

func newSequencer(l Limits, clock Clock, stamps *stamper) *sequencer {
	l = l.withDefaults()
	q := &sequencer{
		clock: clock, stamps: stamps, limits: l, wake: make(chan struct{}, 1), state: StateIdle,
		slots:    make([]slot, l.RingBytes/entryCost+slotMargin),
		throttle: newThrottle(l), syncMark: l.RingBytes / 100 * int64(l.SyncBelow),
		moved:  make(chan struct{}),
		onSeal: func(dr.Position, string) {}, sockets: func() error { return nil },
	}
	q.held.wake = make(chan struct{}, 1)
	return q
}

// open begins an epoch. The ring's old entries are dropped: no sender may be
// reading them. Every disk must have a socket open.
func (q *sequencer) open(gen dr.Generation, epoch dr.Epoch) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state == StateOpen {
		return fmt.Errorf("open epoch %d: epoch %d is open", epoch, q.epoch)
	}
	if name, ok := q.missing(); ok {
		return fmt.Errorf("open epoch %d: disk %s is not attached", epoch, name)
	}
	q.drop(q.head)
	q.gen, q.epoch, q.state = gen, epoch, StateOpen
	q.head, q.durable, q.lastN, q.reason = 0, 0, 0, ""
	q.throttle.spent = 0
	q.stirred()
	return nil
}

// missing returns a disk without a socket.
func (q *sequencer) missing() (string, bool) {
	for i := range q.disks {
		if q.disks[i].conns == 0 {
			return q.disks[i].name, true
		}
	}
	return "", false
}

// stirred tells those who wait for progress.
func (q *sequencer) stirred() {
	close(q.moved)
	q.moved = make(chan struct{})
}

// record gives a guest's write, zero or trim its number and its place in the
// ring, and acknowledges it: at once, or after a delay when the ring fills up.
// Outside an epoch it only acknowledges.
func (q *sequencer) record(s slot, req completer) {
	q.mu.Lock()
	if q.state == StateOpen && q.full(1) {
		q.mu.Unlock()
		q.seal("the ring holds more requests than clients may have in flight")
		q.mu.Lock()
	}
	if q.state != StateOpen {
		q.counters.Unrecorded++
		q.mu.Unlock()
		release(s.owner)
		req.Done(nil)
		return
	}
	if sabotageAckEarly {
		q.mu.Unlock()
		req.Done(nil)
		req = answered{}
		q.mu.Lock()
	}
	q.put(s)
	if q.live != nil {
		q.live(q.head, s.disk, s.off, s.length)
	}
	q.counters.Writes++
	if s.kind == segment.KindTrim {
		q.counters.Discards++
	} else {
		q.counters.RawBytes += s.length
	}
	verdict := ackNow
	if q.used > q.throttle.above {
		verdict = q.hold(req)
	}
	q.mu.Unlock()
	q.signal()
	switch verdict {
	case ackNow:
		req.Done(nil)
	case ackShed:
		q.seal("the ring is full: the standby does not keep up or cannot be reached")
		req.Done(nil)
	case ackHeld:
		q.held.signal()
	}
}

func release(r releaser) {
	if r != nil {
		r.Release()
	}
}

// full reports whether fewer than n entries and a break fit.
func (q *sequencer) full(n int) bool { return int(q.head-q.durable)+n+1 > len(q.slots) }

// put appends an entry. There is a slot for it.
func (q *sequencer) put(s slot) {
	q.head++
	q.slots[uint64(q.head)%uint64(len(q.slots))] = s
	q.used += s.cost
}

// signal wakes the sender.
func (q *sequencer) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// at returns the slot of an entry that is in the ring.
func (q *sequencer) at(n dr.Seq) *slot { return &q.slots[uint64(n)%uint64(len(q.slots))] }

// collect copies entries from number from on into dst. Their data stays in the
// ring until release passes it. It stops after limit bytes of data.
func (q *sequencer) collect(from dr.Seq, dst []segment.Entry, limit int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for seq := max(from, q.durable+1); seq <= q.head && n < len(dst) && bytes < limit; seq++ {
		s := q.at(seq)
		dst[n] = segment.Entry{
			Seq: seq, Kind: s.kind, Flags: s.flags, Disk: s.disk, Offset: s.off, Length: s.length, Data: s.data,
		}
		bytes += len(s.data)
		n++
	}
	return n
}

// release frees what the standby made durable.
func (q *sequencer) release(durable dr.Seq) {
	q.mu.Lock()
	if durable <= q.durable || durable > q.head {
		q.mu.Unlock()
		return
	}
	q.drop(durable)
	q.throttle.drained(q.used)
	relieved := q.used <= q.throttle.above
	q.stirred()
	q.mu.Unlock()
	if relieved {
		q.held.signal()
	}
}

// drop gives back the memory of all entries up to n.
func (q *sequencer) drop(n dr.Seq) {
	for seq := q.durable + 1; seq <= n; seq++ {
		s := q.at(seq)
		release(s.owner)
		q.used -= s.cost
		*s = slot{}
	}
	q.durable = n
}

// seal ends the epoch with a break entry; it reports whether it was this call
// that did. From its return on nothing is recorded.
func (q *sequencer) seal(reason string) bool {
	reason = reason[:min(len(reason), maxReason)]
	q.mu.Lock()
	if q.state != StateOpen || sabotageConfirmLate {
		q.mu.Unlock()
		return false
	}
	data, _ := segment.Break{Reason: reason}.MarshalBinary() // cannot fail: it only appends
	q.put(slot{kind: segment.KindBreak, data: data, cost: entryCost})
	q.state, q.reason = StateSealed, reason
	at := dr.Position{Generation: q.gen, Epoch: q.epoch, Seq: q.head}
	q.stirred()
	q.mu.Unlock()
	q.signal()
	q.held.signal()
	q.onSeal(at, reason)
	return true
}

// connected counts a socket of a disk.
func (q *sequencer) connected(disk uint16) {
	q.mu.Lock()
	q.disks[disk].conns++
	q.mu.Unlock()
}

// disconnected forgets a socket of a disk. One that wrote, or the last one of
// its disk, takes the open epoch with it: who wrote through it writes past us
// from now on.
func (q *sequencer) disconnected(disk uint16, wrote bool, why string) {
	q.mu.Lock()
	q.disks[disk].conns--
	lost := wrote || q.disks[disk].conns == 0
	name := q.disks[disk].name
	q.mu.Unlock()
	if lost {
		q.seal(fmt.Sprintf("the socket of disk %s closed: %s", name, why))
	}
}
