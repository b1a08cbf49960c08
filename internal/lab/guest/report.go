package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// reconnectEvery is the time between attempts to reach the collector.
const reconnectEvery = 200 * time.Millisecond

// hello is the first message of a connection.
func (g *guest) hello() wire.Message {
	return wire.Message{Kind: wire.KindHello, Guest: g.conf.Name, Peer: g.conf.Peer, Boot: g.boot, Wall: time.Now().UnixNano(), Uptime: uptime()}
}

// report keeps a connection to the collector until ctx ends.
func (g *guest) report(ctx context.Context, nics []wire.NIC, found ledger.State) {
	if g.conf.Collector == "" {
		return
	}
	for ctx.Err() == nil {
		_ = g.reportOnce(ctx, nics, found) // why it ended shows at the collector; try again
		select {
		case <-time.After(reconnectEvery):
		case <-ctx.Done():
		}
	}
}

func (g *guest) dialCollector(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp4", g.conf.Collector)
	if err != nil {
		return nil, fmt.Errorf("reach collector: %w", err)
	}
	return conn, nil
}

// reportOnce reports over one connection until it breaks or ctx ends.
func (g *guest) reportOnce(ctx context.Context, nics []wire.NIC, found ledger.State) error {
	conn, err := g.dialCollector(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	hello := g.hello()
	hello.Record, hello.State, hello.NICs = g.book.connect(), &found, nics
	defer g.book.disconnect()
	link, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	if err := send(conn, hello); err != nil {
		return err
	}
	wg.Go(func() {
		defer cancel()
		g.replies(conn)
	})
	err = g.acks(link, conn)
	if ctx.Err() != nil {
		g.farewell(conn)
	}
	_ = conn.Close()
	return err
}

// acks sends what becomes durable until ctx ends.
func (g *guest) acks(ctx context.Context, conn net.Conn) error {
	for {
		records, reach, err := g.book.take(ctx)
		if err != nil {
			return err
		}
		var out []wire.Message
		for _, r := range records {
			out = append(out, wire.Message{Kind: wire.KindAck, Record: r.Ref(), Names: r.Peer, Wall: r.Wall.UnixNano()})
		}
		if reach != nil {
			out = append(out, wire.Message{Kind: wire.KindReach, Reach: reach, Uptime: uptime()})
		}
		if err := send(conn, out...); err != nil {
			return err
		}
	}
}

// farewell reports the last records before an orderly end.
func (g *guest) farewell(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	last := wire.Message{Kind: wire.KindStopping}
	var out []wire.Message
	for _, r := range g.book.rest() {
		out = append(out, wire.Message{Kind: wire.KindAck, Record: r.Ref(), Names: r.Peer, Wall: r.Wall.UnixNano()})
	}
	_ = send(conn, append(out, last)...) // a collector that is gone need not hear it
}

// send writes messages in one go.
func send(conn net.Conn, messages ...wire.Message) error {
	var buf []byte
	for _, m := range messages {
		b, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("marshal message: %w", err)
		}
		buf = append(append(buf, b...), '\n')
	}
	if _, err := conn.Write(buf); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// replies takes in what the collector says until the connection ends.
func (g *guest) replies(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var reply wire.Reply
		if err := json.Unmarshal(line, &reply); err != nil {
			g.con.event(wire.Event{Event: "error", Detail: fmt.Sprintf("parse reply: %v", err)})
			return
		}
		g.book.answered(reply)
		if reply.Agent != nil {
			g.agentTold(*reply.Agent)
		}
	}
}

// uploadLedger sends the raw ledger that this boot found, once.
func (g *guest) uploadLedger(ctx context.Context, raw [ledger.Files][]byte) {
	if g.conf.Collector == "" {
		return
	}
	for ctx.Err() == nil && g.uploadOnce(ctx, raw) != nil {
		select {
		case <-time.After(reconnectEvery):
		case <-ctx.Done():
		}
	}
}

func (g *guest) uploadOnce(ctx context.Context, raw [ledger.Files][]byte) error {
	if err := g.book.waitConnected(ctx); err != nil {
		return err
	}
	conn, err := g.dialCollector(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	hello := g.hello()
	hello.Upload = true
	head := wire.Message{Kind: wire.KindLedger}
	for i, b := range raw {
		head.Sizes[i] = int64(len(b))
	}
	if err := send(conn, hello, head); err != nil {
		return err
	}
	for _, b := range raw {
		if _, err := conn.Write(b); err != nil {
			return fmt.Errorf("send ledger: %w", err)
		}
	}
	// The reply says that it arrived.
	if _, err := bufio.NewReader(conn).ReadBytes('\n'); err != nil {
		return fmt.Errorf("await receipt: %w", err)
	}
	return nil
}
