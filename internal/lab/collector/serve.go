package collector

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// maxLedgerBytes bounds an uploaded ledger file.
const maxLedgerBytes = 1 << 30

// guestConn is one connection of a guest.
type guestConn struct {
	net.Conn
	wakeCh chan struct{} // capacity 1: something to reply
	done   chan struct{} // closed when reading ended
}

func (g *guestConn) wake() {
	select {
	case g.wakeCh <- struct{}{}:
	default:
	}
}

func (c *Collector) accept() {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return // closed
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			_ = conn.Close()
			return
		}
		c.conns[conn] = struct{}{}
		c.mu.Unlock()
		c.wg.Go(func() { c.serve(conn) })
	}
}

func (c *Collector) serve(conn net.Conn) {
	g := &guestConn{Conn: conn, wakeCh: make(chan struct{}, 1), done: make(chan struct{})}
	defer func() {
		_ = conn.Close()
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
	}()
	r := bufio.NewReaderSize(conn, 64<<10)
	hello, err := readMessage(r)
	if err != nil || hello.Kind != wire.KindHello || hello.Boot == "" || hello.Guest == "" {
		c.cfg.Logger.Warn("guest refused", "remote", conn.RemoteAddr(), "kind", hello.Kind, "error", err)
		return
	}
	if hello.Upload {
		if err := c.upload(r, hello); err != nil {
			c.cfg.Logger.Warn("ledger upload failed", "guest", hello.Guest, "error", err)
			return
		}
		g.reply(wire.Reply{}) // the guest may forget its copy now
		return
	}
	s := c.opened(hello, g)
	c.wg.Go(func() { c.replies(s, g) })
	err = c.messages(r, s, g)
	close(g.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.conn == g {
		s.conn, s.Connected = nil, false
		c.notifyLocked()
	}
	c.cfg.Logger.Debug("guest gone", "guest", s.Guest, "boot", s.Boot, "error", err)
}

func readMessage(r *bufio.Reader) (m wire.Message, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return m, fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("parse message: %w", err)
	}
	return m, nil
}

// opened notes a connection's hello.
func (c *Collector) opened(hello wire.Message, g *guestConn) *session {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[hello.Boot]
	if s == nil {
		s = &session{peer: hello.Peer, Session: Session{
			Guest: hello.Guest, Boot: hello.Boot, World: c.world, NICs: hello.NICs, Opened: now, HelloUptime: hello.Uptime,
		}}
		if hello.State != nil {
			s.State = *hello.State
		}
		c.sessions[hello.Boot] = s
	}
	s.conn, s.Connected, s.Newest = g, true, hello.Record
	c.log.add(Ack{Guest: s.Guest, Boot: s.Boot, Record: hello.Record, Mono: now.Sub(c.start), Wall: now.UTC(), Hello: true})
	c.wakePeersLocked(s)
	c.notifyLocked()
	return s
}

// wakePeersLocked lets those who name this guest's records hear of a new one.
// They hear with their next reply; only a guest that just came up needs one
// out of turn.
// +checklocks:c.mu
func (c *Collector) wakePeersLocked(s *session) {
	for _, other := range c.sessions {
		if other.peer == s.Guest && other.conn != nil {
			other.conn.wake()
		}
	}
}

// messages reads a connection until it ends.
func (c *Collector) messages(r *bufio.Reader, s *session, g *guestConn) error {
	g.wake() // answer the hello
	for {
		m, err := readMessage(r)
		if err != nil {
			return err
		}
		now := time.Now()
		c.mu.Lock()
		switch m.Kind {
		case wire.KindAck:
			s.Newest = m.Record
			c.log.add(Ack{Guest: s.Guest, Boot: s.Boot, Record: m.Record, Names: m.Names, Mono: now.Sub(c.start), Wall: now.UTC()})
			g.wake()
		case wire.KindReach:
			s.Reach = m.Reach
		case wire.KindStopping:
			s.Stopping = true
		default:
			c.mu.Unlock()
			return fmt.Errorf("message of unknown kind %q", m.Kind)
		}
		c.notifyLocked()
		c.mu.Unlock()
	}
}

// replies answers a connection whenever it is woken. The agent's configuration
// is told once a connection and again when it changes.
func (c *Collector) replies(s *session, g *guestConn) {
	var told *wire.AgentConfig
	for {
		select {
		case <-g.wakeCh:
		case <-g.done:
			return
		}
		c.mu.Lock()
		set := c.settingLocked(s.Guest)
		reply := wire.Reply{Received: s.Newest.N, Peer: c.peerLocked(s), RecordsPerSecond: set.rate}
		if set.agent != told {
			reply.Agent, told = set.agent, set.agent
		}
		reply.Paused = set.paused != nil && *set.paused
		c.mu.Unlock()
		if !g.reply(reply) {
			return
		}
	}
}

func (g *guestConn) reply(r wire.Reply) bool {
	b, err := json.Marshal(r)
	if err != nil {
		return false
	}
	if _, err := g.Write(append(b, '\n')); err != nil {
		_ = g.Close() // reading ends too
		return false
	}
	return true
}

// peerLocked returns the newest durable record of the guest's peer in the
// same world, as far as a live connection tells.
// +checklocks:c.mu
func (c *Collector) peerLocked(s *session) ledger.Ref {
	var newest *session
	for _, other := range c.sessions {
		if other.Guest != s.peer || other.World != s.World || !other.Connected {
			continue
		}
		if newest == nil || other.Opened.After(newest.Opened) {
			newest = other
		}
	}
	if newest == nil {
		return ledger.Ref{}
	}
	return newest.Newest
}

// upload takes in the raw ledger that a boot found.
func (c *Collector) upload(r *bufio.Reader, hello wire.Message) error {
	m, err := readMessage(r)
	if err != nil {
		return err
	}
	if m.Kind != wire.KindLedger {
		return fmt.Errorf("message of kind %q where a ledger was announced", m.Kind)
	}
	var content [ledger.Files][]byte
	var names []string
	for i, size := range m.Sizes {
		if size < 0 || size > maxLedgerBytes {
			return fmt.Errorf("ledger file of %d bytes", size)
		}
		content[i] = make([]byte, size)
		if _, err := io.ReadFull(r, content[i]); err != nil {
			return fmt.Errorf("read ledger file %d: %w", i, err)
		}
		if c.cfg.EvidenceDir == "" {
			continue
		}
		name := filepath.Join(c.cfg.EvidenceDir, fmt.Sprintf("ledger-%s-%s-%d.bin", filepath.Base(hello.Guest), filepath.Base(hello.Boot), i))
		if err := os.WriteFile(name, content[i], 0o644); err != nil {
			return fmt.Errorf("write evidence: %w", err)
		}
		names = append(names, name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[hello.Boot]
	if s == nil {
		return errors.New("ledger of a boot that has not said hello")
	}
	s.ledger, s.LedgerFiles = &content, names
	c.notifyLocked()
	return nil
}
