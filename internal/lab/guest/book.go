package guest

import (
	"context"
	"sync"
	"time"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// book is what the guest's parts know of the ledger: what is durable, what was
// reported and answered, how fast to write and what the peer has.
type book struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced on every change
	durable ledger.Ref
	// unsent are the records that became durable since the last report.
	unsent []ledger.Record
	// connected: a collector listens, received is what it answered.
	connected bool
	received  uint64
	// answeredOnce: the collector has answered this connection's hello.
	answeredOnce bool
	ended        bool
	// reach is the newest report of what can be reached, reachSent the one
	// that this connection has sent.
	reach, reachSent *wire.Reach
	rate             float64
	paused           bool
	// direct is what the peer itself said; told is what the collector said.
	// The peer itself is on our network, so it is of our world for certain.
	direct, told ledger.Ref
	// named is the newest peer record that any record of the ledger named.
	named ledger.Ref
	due   time.Time
}

// newBook begins where the found ledger ends.
func newBook(found *ledger.Ledger, rate float64) *book {
	b := &book{durable: found.State.Newest, rate: rate, changed: make(chan struct{}), due: time.Now()}
	if n := len(found.Records); n > 0 {
		b.named = found.Records[n-1].Peer
	}
	return b
}

// update changes the book under its lock and wakes everybody who waits.
func (b *book) update(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *book) newest() ledger.Ref {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.durable
}

// next waits until the next record is to be written and returns which record of
// the peer it names; false when ctx ended.
func (b *book) next(ctx context.Context) (peer ledger.Ref, ok bool) {
	for ctx.Err() == nil {
		b.mu.Lock()
		wait, changed := b.waitLocked(time.Now()), b.changed
		if wait == 0 {
			b.due = b.due.Add(time.Duration(float64(time.Second) / b.rate))
			peer = b.peerLocked()
			b.mu.Unlock()
			return peer, true
		}
		b.mu.Unlock()
		var timer <-chan time.Time // never, when only a change can help
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-changed:
		case <-ctx.Done():
		}
	}
	return ledger.Ref{}, false
}

// maxBehind is how much of a pause the guest makes up for by writing faster.
const maxBehind = 200 * time.Millisecond

// waitLocked returns how long to wait before the next record: 0 not at all,
// negative until something changes.
func (b *book) waitLocked(now time.Time) time.Duration {
	if b.paused || b.rate <= 0 || b.connected && b.durable.N >= b.received+wire.Window {
		b.due = now
		return -1
	}
	if b.due.Before(now.Add(-maxBehind)) {
		b.due = now.Add(-maxBehind)
	}
	return max(0, b.due.Sub(now))
}

func (b *book) peerLocked() ledger.Ref {
	peer := b.told
	if b.direct.N > 0 {
		peer = b.direct
	}
	if peer.N > b.named.N {
		b.named = peer
	}
	return b.named
}

func (b *book) wrote(r ledger.Record) {
	b.update(func() {
		b.durable = r.Ref()
		if b.connected {
			b.unsent = append(b.unsent, r)
		}
	})
}

// connect begins reporting and returns the newest durable record, which the
// hello tells; the reports that follow are of later ones.
func (b *book) connect() ledger.Ref {
	var newest ledger.Ref
	b.update(func() {
		b.connected, b.unsent, b.reachSent = true, nil, nil
		b.received = b.durable.N
		newest = b.durable
	})
	return newest
}

func (b *book) disconnect() {
	b.update(func() { b.connected, b.answeredOnce, b.unsent = false, false, nil })
}

// waitConnected waits until the collector has answered a hello.
func (b *book) waitConnected(ctx context.Context) error {
	for {
		b.mu.Lock()
		ok, changed := b.answeredOnce, b.changed
		b.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// setReach keeps the newest report of what can be reached.
func (b *book) setReach(r *wire.Reach) {
	b.update(func() { b.reach = r })
}

// take waits for records, or a new report of what can be reached, to send.
func (b *book) take(ctx context.Context) ([]ledger.Record, *wire.Reach, error) {
	for {
		b.mu.Lock()
		records, changed := b.unsent, b.changed
		b.unsent = nil
		var reach *wire.Reach
		if b.reach != b.reachSent {
			reach, b.reachSent = b.reach, b.reach
		}
		b.mu.Unlock()
		if len(records) > 0 || reach != nil {
			return records, reach, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// rest returns what is left to report once writing has ended; it waits for
// that.
func (b *book) rest() []ledger.Record {
	for {
		b.mu.Lock()
		ended, changed, records := b.ended, b.changed, b.unsent
		b.mu.Unlock()
		if ended {
			return records
		}
		<-changed
	}
}

// end says that no more records are written.
func (b *book) end() { b.update(func() { b.ended = true }) }

// answered takes in a reply of the collector.
func (b *book) answered(r wire.Reply) {
	b.update(func() {
		b.received = max(b.received, r.Received)
		b.paused = r.Paused
		b.answeredOnce = true
		b.told = r.Peer
		if r.RecordsPerSecond != nil {
			b.rate = *r.RecordsPerSecond
		}
	})
}

// heardPeer takes in what the peer itself said of its newest record.
func (b *book) heardPeer(newest ledger.Ref) {
	b.update(func() { b.direct = newest })
}
