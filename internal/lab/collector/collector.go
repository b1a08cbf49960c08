// Package collector is the host's end of the lab: guests tell it each ledger
// record once it is durable; it notes when it heard so, answers questions
// about that, and tells guests how fast to write.
//
// What it promises: an acknowledgement is in the log with the time at which
// its bytes had been read from the socket, before any reply about it is sent.
// Times are the host's. All methods are safe for concurrent use.
package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// Config configures a Collector.
type Config struct {
	// Listen is a TCP address; empty is "127.0.0.1:0". Guests in user-mode
	// networks reach the host's loopback as 10.0.2.2.
	Listen string
	// EvidenceDir gets acks.jsonl and the guests' raw ledgers; empty: the
	// log is kept in memory only.
	EvidenceDir string
	Logger      *slog.Logger // nil: discard
}

// Ack is one line of the acknowledgement log.
type Ack struct {
	Guest string `json:"guest"`
	Boot  string `json:"boot"`
	// Record is durable in that guest since before Mono.
	Record ledger.Ref `json:"record"`
	// Names is the peer's record that Record names.
	Names ledger.Ref `json:"names,omitzero"`
	// Mono is nanoseconds since the collector started; it never jumps.
	Mono time.Duration `json:"monoNanos"`
	// Wall is the host's clock.
	Wall time.Time `json:"wall"`
	// Hello marks a guest's statement about its newest record when it
	// connected; all others are records that became durable.
	Hello bool `json:"hello,omitempty"`
}

// Session is one boot of a guest, as its connections showed it.
type Session struct {
	Guest string `json:"guest"`
	Boot  string `json:"boot"`
	World int    `json:"world"`
	// Connected says whether a connection is open now.
	Connected bool `json:"connected"`
	// State is what the boot found on its disks.
	State ledger.State `json:"state"`
	NICs  []wire.NIC   `json:"nics"`
	// HelloUptime is the guest's uptime in seconds at its first hello.
	HelloUptime float64     `json:"helloUptime"`
	Opened      time.Time   `json:"opened"`
	Newest      ledger.Ref  `json:"newest"`
	Reach       *wire.Reach `json:"reach,omitempty"`
	// LedgerFiles are the raw ledger that the boot found, once uploaded.
	LedgerFiles []string `json:"ledgerFiles,omitempty"`
	// Stopping says that an orderly power-off was announced.
	Stopping bool `json:"stopping,omitempty"`
}

// Collector serves guests until it is closed.
type Collector struct {
	cfg   Config
	ln    net.Listener
	start time.Time
	wg    sync.WaitGroup

	mu sync.Mutex
	// +checklocks:mu
	log *ackLog
	// +checklocks:mu
	sessions map[string]*session // by boot id
	// +checklocks:mu
	settings map[string]setting // by guest; "" is everybody
	// +checklocks:mu
	world int
	// changed is closed and replaced whenever anything is learned.
	// +checklocks:mu
	changed chan struct{}
	// +checklocks:mu
	conns map[net.Conn]struct{}
	// +checklocks:mu
	closed bool
}

type session struct {
	Session
	peer   string
	conn   *guestConn // the newest open connection, nil when none
	ledger *[2][]byte // the raw ledger as uploaded
}

type setting struct {
	rate   *float64
	paused *bool
	agent  *wire.AgentConfig
}

// Start listens and serves in the background until Close.
func Start(ctx context.Context, cfg Config) (*Collector, error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	log := &ackLog{}
	if cfg.EvidenceDir != "" {
		if err := os.MkdirAll(cfg.EvidenceDir, 0o755); err != nil {
			return nil, fmt.Errorf("make evidence directory: %w", err)
		}
		f, err := os.OpenFile(filepath.Join(cfg.EvidenceDir, "acks.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open acknowledgement log: %w", err)
		}
		log.file = f
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for guests: %w", err), log.close())
	}
	c := &Collector{
		cfg: cfg, ln: ln, start: time.Now(), log: log,
		sessions: make(map[string]*session), settings: make(map[string]setting),
		changed: make(chan struct{}), conns: make(map[net.Conn]struct{}),
	}
	c.wg.Go(c.accept)
	return c, nil
}

// Addr returns the address it listens on.
func (c *Collector) Addr() *net.TCPAddr { return c.ln.Addr().(*net.TCPAddr) }

// GuestAddr returns the address at which a guest in a user-mode network finds
// the collector.
func (c *Collector) GuestAddr() string { return fmt.Sprintf("10.0.2.2:%d", c.Addr().Port) }

// Close ends all connections and flushes the log.
func (c *Collector) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	err := c.ln.Close()
	for conn := range c.conns {
		_ = conn.Close()
	}
	c.mu.Unlock()
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(err, c.log.close())
}

// NewWorld separates the boots that come from those that were: from now on, a
// guest that boots is told of its peer's records only by boots of the same
// world. Call it before machines are started from another moment or at another
// site. It returns the world's number.
func (c *Collector) NewWorld() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.world++
	return c.world
}

// SetRate tells a guest (or, with "", every guest that has no rate of its own)
// how many records a second to write.
func (c *Collector) SetRate(guest string, perSecond float64) {
	c.set(guest, func(s *setting) { s.rate = &perSecond })
}

// SetPaused makes a guest (or, with "", every guest that was not told
// otherwise by name) stop or go on writing. Records in flight may still come:
// wait with WaitQuiet.
func (c *Collector) SetPaused(guest string, paused bool) {
	c.set(guest, func(s *setting) { s.paused = &paused })
}

// SetAgent gives a guest its agent's configuration.
func (c *Collector) SetAgent(guest string, cfg wire.AgentConfig) {
	c.set(guest, func(s *setting) { s.agent = &cfg })
}

// ForgetAgent takes a guest's agent configuration back: its next boot gets none.
func (c *Collector) ForgetAgent(guest string) {
	c.set(guest, func(s *setting) { s.agent = nil })
}

func (c *Collector) set(guest string, change func(*setting)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.settings[guest]
	change(&s)
	c.settings[guest] = s
	for _, sess := range c.sessions {
		if sess.conn != nil {
			sess.conn.wake()
		}
	}
}

// settingLocked merges a guest's own setting over everybody's.
// +checklocks:c.mu
func (c *Collector) settingLocked(guest string) setting {
	s, own := c.settings[""], c.settings[guest]
	if own.rate != nil {
		s.rate = own.rate
	}
	if own.paused != nil {
		s.paused = own.paused
	}
	if own.agent != nil {
		s.agent = own.agent
	}
	return s
}

// Sessions returns every boot seen, in the order of their first connection.
func (c *Collector) Sessions() []Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Session, 0, len(c.sessions))
	for _, s := range c.sessions {
		all = append(all, s.Session)
	}
	slices.SortFunc(all, func(a, b Session) int { return a.Opened.Compare(b.Opened) })
	return all
}

// Session returns one boot.
func (c *Collector) Session(boot string) (Session, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.sessions[boot]
	if !ok {
		return Session{}, false
	}
	return s.Session, true
}

// Ledger returns the raw ledger that a boot found on its disks, parsed; ok is
// false until the guest has uploaded it.
func (c *Collector) Ledger(boot string) (l *ledger.Ledger, ok bool) {
	c.mu.Lock()
	s, found := c.sessions[boot]
	var content *[2][]byte
	if found {
		content = s.ledger
	}
	c.mu.Unlock()
	if content == nil {
		return nil, false
	}
	return ledger.Parse(*content), true
}

// notifyLocked wakes everybody who waits for news.
// +checklocks:c.mu
func (c *Collector) notifyLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait calls look under the lock, again after every change, until it is true.
func (c *Collector) wait(ctx context.Context, what string, look func() bool) error {
	for {
		c.mu.Lock()
		if look() {
			c.mu.Unlock()
			return nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}
