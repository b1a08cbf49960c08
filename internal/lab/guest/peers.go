package guest

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

const (
	// peerPort is where guests greet each other, UDP and TCP.
	peerPort = 4711
	// greetEvery is how often a guest tells its newest record.
	greetEvery = 100 * time.Millisecond
	// reachEvery is how often what can be reached is tried anew.
	reachEvery  = 2 * time.Second
	dialTimeout = time.Second
	// peerMemory is how long a peer counts as heard.
	peerMemory = 3 * time.Second
)

// greeting is what guests say to each other.
type greeting struct {
	Guest  string     `json:"guest"`
	Boot   string     `json:"boot"`
	Newest ledger.Ref `json:"newest"`
}

// heard is the guests that were heard of late.
type heard struct {
	mu    sync.Mutex
	peers map[string]*heardPeer // by boot
}

type heardPeer struct {
	seen wire.PeerSeen
	card string
	last time.Time
}

func newHeard() *heard { return &heard{peers: make(map[string]*heardPeer)} }

func (h *heard) note(m greeting, card string, from net.Addr) {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[m.Boot]
	if p == nil {
		p = &heardPeer{}
		h.peers[m.Boot] = p
	}
	p.seen.Guest, p.seen.Boot, p.seen.Address, p.seen.UDP = m.Guest, m.Boot, host, true
	p.card, p.last = card, time.Now()
}

// recent returns those heard within peerMemory.
func (h *heard) recent() []heardPeer {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []heardPeer
	for _, p := range h.peers {
		if time.Since(p.last) < peerMemory {
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(a, b heardPeer) int { return cmp.Compare(a.seen.Boot, b.seen.Boot) })
	return out
}

func (g *guest) greeting() []byte {
	b, err := json.Marshal(greeting{Guest: g.conf.Name, Boot: g.boot, Newest: g.book.newest()})
	if err != nil {
		panic("guest: marshal greeting: " + err.Error()) // every field marshals
	}
	return append(b, '\n')
}

// greetAndListen speaks and listens on every card until ctx ends.
func (g *guest) greetAndListen(ctx context.Context, nics []wire.NIC) {
	var wg sync.WaitGroup
	for _, nic := range nics {
		conn, err := listenOn(ctx, nic.Name, fmt.Sprintf("0.0.0.0:%d", peerPort))
		if err != nil {
			g.con.event(wire.Event{Event: "error", Detail: err.Error()})
			continue
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		wg.Go(func() { g.greet(ctx, conn) })
		wg.Go(func() { g.listen(conn, nic.Name) })
	}
	wg.Wait()
}

func (g *guest) greet(ctx context.Context, conn net.PacketConn) {
	tick := time.NewTicker(greetEvery)
	defer tick.Stop()
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: peerPort}
	for {
		_, _ = conn.WriteTo(g.greeting(), to) // a card without a link loses it; the next may pass
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *guest) listen(conn net.PacketConn, card string) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		var m greeting
		if json.Unmarshal(buf[:n], &m) != nil || m.Boot == "" || m.Boot == g.boot {
			continue
		}
		g.heard.note(m, card, from)
		if m.Guest == g.conf.Peer {
			g.book.heardPeer(m.Newest)
		}
	}
}

// answerPeers answers greetings over TCP until ctx ends.
func (g *guest) answerPeers(ctx context.Context) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp4", fmt.Sprintf(":%d", peerPort))
	if err != nil {
		g.con.event(wire.Event{Event: "error", Detail: err.Error()})
		return
	}
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	for {
		conn, err := ln.Accept()
		if err != nil {
			return // closed
		}
		_ = conn.SetDeadline(time.Now().Add(dialTimeout))
		_, _ = conn.Write(g.greeting())
		_ = conn.Close()
	}
}

// assertReach tries what can be reached until ctx ends and reports every
// change.
func (g *guest) assertReach(ctx context.Context, nics []wire.NIC) {
	tick := time.NewTicker(reachEvery)
	defer tick.Stop()
	var last *wire.Reach
	for {
		r := &wire.Reach{NICs: nics, Peers: g.tryPeers(ctx), Hosts: g.tryHosts(ctx, nics)}
		if ctx.Err() != nil {
			return
		}
		if !reflect.DeepEqual(r, last) {
			last = r
			g.con.event(wire.Event{Event: "reach", Reach: r})
			g.book.setReach(r)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tryPeers asks every guest that was heard over TCP too.
func (g *guest) tryPeers(ctx context.Context) []wire.PeerSeen {
	var out []wire.PeerSeen
	for _, p := range g.heard.recent() {
		p.seen.TCP = askPeer(ctx, p) == nil
		out = append(out, p.seen)
	}
	return out
}

func askPeer(ctx context.Context, p heardPeer) error {
	conn, err := dialerOn(p.card).DialContext(ctx, "tcp4", net.JoinHostPort(p.seen.Address, fmt.Sprint(peerPort)))
	if err != nil {
		return fmt.Errorf("greet peer: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	var m greeting
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("parse greeting: %w", err)
	}
	if m.Boot != p.seen.Boot {
		return fmt.Errorf("boot %s answered for boot %s", m.Boot, p.seen.Boot)
	}
	return nil
}

// tryHosts tries the collector, the host's usual addresses, the gateways and
// what the configuration names, through every card.
func (g *guest) tryHosts(ctx context.Context, nics []wire.NIC) []wire.HostSeen {
	targets := g.targets(nics)
	out := make([]wire.HostSeen, len(targets))
	var wg sync.WaitGroup
	for i, target := range targets {
		wg.Go(func() { out[i] = tryHost(ctx, nics, target) })
	}
	wg.Wait()
	return out
}

func (g *guest) targets(nics []wire.NIC) []string {
	port := "22"
	targets := slices.Clone(g.conf.Reach)
	if g.conf.Collector != "" {
		targets = append(targets, g.conf.Collector)
		if _, p, err := net.SplitHostPort(g.conf.Collector); err == nil {
			port = p
		}
	}
	targets = append(targets, net.JoinHostPort("10.0.2.2", port))
	for _, nic := range nics {
		if nic.Gateway != "" {
			targets = append(targets, net.JoinHostPort(nic.Gateway, port))
		}
	}
	slices.Sort(targets)
	return slices.Compact(targets)
}

// tryHost dials a host through each card. A refusal is an answer, too.
func tryHost(ctx context.Context, nics []wire.NIC, target string) wire.HostSeen {
	seen := wire.HostSeen{Address: target, Error: "no network card"}
	for _, nic := range nics {
		conn, err := dialerOn(nic.Name).DialContext(ctx, "tcp4", target)
		if err == nil {
			_ = conn.Close()
		}
		if err == nil || errors.Is(err, unix.ECONNREFUSED) {
			return wire.HostSeen{Address: target, Reachable: true}
		}
		seen.Error = err.Error()
	}
	return seen
}
