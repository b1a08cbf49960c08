package collector

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg Config) *Collector {
	t.Helper()
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// fake is a guest as the collector sees it.
type fake struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func connect(t *testing.T, c *Collector, hello wire.Message) *fake {
	t.Helper()
	conn, err := net.Dial("tcp", c.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	f := &fake{t: t, Conn: conn, r: bufio.NewReader(conn)}
	hello.Kind = wire.KindHello
	f.send(hello)
	return f
}

func (f *fake) send(m wire.Message) {
	f.t.Helper()
	b, err := json.Marshal(m)
	if err == nil {
		_, err = f.Write(append(b, '\n'))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) ack(n uint64) { f.send(wire.Message{Kind: wire.KindAck, Record: ref(n)}) }

// until reads replies until one is as wanted.
func (f *fake) until(what string, ok func(wire.Reply) bool) wire.Reply {
	f.t.Helper()
	_ = f.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		line, err := f.r.ReadBytes('\n')
		if err != nil {
			f.t.Fatalf("no reply with %s: %v", what, err)
		}
		var r wire.Reply
		if err := json.Unmarshal(line, &r); err != nil {
			f.t.Fatal(err)
		}
		if ok(r) {
			return r
		}
	}
}

func (f *fake) untilReceived(n uint64) wire.Reply {
	f.t.Helper()
	return f.until("the receipt", func(r wire.Reply) bool { return r.Received == n })
}

func ref(n uint64) ledger.Ref { return ledger.Ref{N: n, CRC: uint32(n) * 3} }

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAcksAreLoggedBeforeTheyAreAnswered(t *testing.T) {
	dir := t.TempDir()
	c := start(t, Config{EvidenceDir: dir})
	g := connect(t, c, wire.Message{Guest: "alpha", Boot: "b1", Record: ref(10), State: &ledger.State{Count: 10}})
	g.untilReceived(10)
	before := time.Now()
	for n := uint64(11); n <= 40; n++ {
		g.ack(n)
		g.untilReceived(n)
		acks := c.Acks("alpha")
		if last := acks[len(acks)-1]; last.Record != ref(n) || last.Hello {
			t.Fatalf("after the reply to %d the log ends with %+v", n, last)
		}
	}
	if got := c.AckedAt("alpha", "", before); got != 10 {
		t.Errorf("acknowledged before: %d", got)
	}
	if got := c.AckedAt("alpha", "b1", time.Now()); got != 40 {
		t.Errorf("acknowledged now: %d", got)
	}
	if got := c.AckedAt("alpha", "other", time.Now()); got != 0 {
		t.Errorf("acknowledged by another boot: %d", got)
	}
	if a, err := c.WaitNewRecord(limit(t), "b1"); err != nil || a.Record != ref(11) {
		t.Errorf("first new record %+v, %v", a, err)
	}
	if rate := c.Rate("", time.Minute); rate != 0.5 {
		t.Errorf("rate %v, want 30 in a minute", rate)
	}
	if s, ok := c.Session("b1"); !ok || s.State.Count != 10 || s.Newest != ref(40) || !s.Connected {
		t.Errorf("session %+v", s)
	}
	checkLog(t, dir, c.Acks(""))
}

func checkLog(t *testing.T, dir string, want []Ack) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "acks.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ReadLog(f)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the log file holds %d lines (%v), memory %d", len(got), err, len(want))
	}
	if !slices.IsSortedFunc(got, func(a, b Ack) int { return int(a.Mono - b.Mono) }) {
		t.Error("the log is not in the order of time")
	}
}

func TestPeersAndWorlds(t *testing.T) {
	c := start(t, Config{})
	b := connect(t, c, wire.Message{Guest: "beta", Peer: "alpha", Boot: "b", Record: ref(1)})
	if r := b.untilReceived(1); r.Peer.N != 0 {
		t.Errorf("peer %+v before there is one", r.Peer)
	}
	a := connect(t, c, wire.Message{Guest: "alpha", Boot: "a", Record: ref(5)})
	a.untilReceived(5)
	b.until("alpha's newest", func(r wire.Reply) bool { return r.Peer == ref(5) })
	a.ack(6)
	a.untilReceived(6)
	b.ack(2)
	if r := b.untilReceived(2); r.Peer != ref(6) {
		t.Errorf("peer %+v, want record 6", r.Peer)
	}

	// A boot of another world counts only there.
	if w := c.NewWorld(); w != 1 {
		t.Errorf("world %d", w)
	}
	a2 := connect(t, c, wire.Message{Guest: "alpha", Boot: "a2", Record: ref(3)})
	a2.untilReceived(3)
	b2 := connect(t, c, wire.Message{Guest: "beta", Peer: "alpha", Boot: "b2", Record: ref(1)})
	if r := b2.untilReceived(1); r.Peer != ref(3) {
		t.Errorf("in the new world beta is told of %+v", r.Peer)
	}
	b.ack(3)
	if r := b.untilReceived(3); r.Peer != ref(6) {
		t.Errorf("in the old world beta is told of %+v", r.Peer)
	}

	// A guest that is gone is not spoken of.
	_ = a2.Close()
	if err := c.wait(limit(t), "alpha to go", func() bool { return !c.sessions["a2"].Connected }); err != nil {
		t.Fatal(err)
	}
	b2.ack(2)
	if r := b2.untilReceived(2); r.Peer.N != 0 {
		t.Errorf("told of %+v by a guest that is gone", r.Peer)
	}
	if s := c.Sessions(); len(s) != 4 || s[0].Boot != "b" || s[3].World != 1 {
		t.Errorf("sessions %+v", s)
	}
}

func TestSettings(t *testing.T) {
	c := start(t, Config{})
	c.SetRate("", 50)
	g := connect(t, c, wire.Message{Guest: "alpha", Boot: "a"})
	rate := func(want float64) {
		t.Helper()
		g.until("the rate", func(r wire.Reply) bool { return r.RecordsPerSecond != nil && *r.RecordsPerSecond == want })
	}
	rate(50)
	c.SetRate("alpha", 80)
	rate(80)
	c.SetRate("", 10) // alpha has its own
	c.SetPaused("", true)
	if r := g.until("the pause", func(r wire.Reply) bool { return r.Paused }); *r.RecordsPerSecond != 80 {
		t.Errorf("rate %v", *r.RecordsPerSecond)
	}
	c.SetPaused("alpha", false)
	g.until("the end of the pause", func(r wire.Reply) bool { return !r.Paused })
	c.SetAgent("alpha", wire.AgentConfig{Vault: "v"})
	g.until("the agent", func(r wire.Reply) bool { return r.Agent != nil && r.Agent.Vault == "v" })
}

func TestQuietReachStopping(t *testing.T) {
	c := start(t, Config{})
	g := connect(t, c, wire.Message{Guest: "alpha", Boot: "a"})
	g.ack(1)
	g.untilReceived(1)
	if n, err := c.WaitQuiet(limit(t), "a", 50*time.Millisecond); err != nil || n != 1 {
		t.Errorf("quiet at %d, %v", n, err)
	}
	g.send(wire.Message{Kind: wire.KindReach, Reach: &wire.Reach{Hosts: []wire.HostSeen{{Address: "h", Reachable: true}}}})
	if r, err := c.WaitReach(limit(t), "a"); err != nil || len(r.Hosts) != 1 {
		t.Errorf("reach %+v, %v", r, err)
	}
	g.send(wire.Message{Kind: wire.KindStopping})
	if err := c.wait(limit(t), "stopping", func() bool { return c.sessions["a"].Stopping }); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.WaitAck(ctx, "a", 2); err == nil {
		t.Error("a record that never came was waited for with success")
	}
}

func TestUpload(t *testing.T) {
	dir := t.TempDir()
	c := start(t, Config{EvidenceDir: dir})
	connect(t, c, wire.Message{Guest: "alpha", Boot: "a"}).untilReceived(0)
	b, _, err := ledger.Record{N: 1, Guest: "alpha"}.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	up := connect(t, c, wire.Message{Guest: "alpha", Boot: "a", Upload: true})
	up.send(wire.Message{Kind: wire.KindLedger, Sizes: [ledger.Files]int64{int64(len(b)), 0}})
	if _, err := up.Write(b); err != nil {
		t.Fatal(err)
	}
	up.until("the receipt", func(wire.Reply) bool { return true })
	s, err := c.WaitLedger(limit(t), "a")
	if err != nil || len(s.LedgerFiles) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	if got, err := os.ReadFile(s.LedgerFiles[0]); err != nil || !slices.Equal(got, b) {
		t.Errorf("evidence %x, %v", got, err)
	}
	if l, ok := c.Ledger("a"); !ok || l.State.Count != 1 || !s.Connected {
		t.Errorf("ledger %+v; the upload must not count as the guest's connection: %v", l, s.Connected)
	}
}

// TestBadGuests: what is no guest is hung up on and leaves nothing.
func TestBadGuests(t *testing.T) {
	c := start(t, Config{})
	for _, first := range []string{
		"GET / HTTP/1.1\n", "{}\n", `{"kind":"ack","guest":"x","boot":"y"}` + "\n", `{"kind":"hello","guest":"x"}` + "\n",
		`{"kind":"hello","guest":"x","boot":"y","upload":true}` + "\n" + `{"kind":"ledger","sizes":[-1,0]}` + "\n",
	} {
		conn, err := net.Dial("tcp", c.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(first))
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%q was answered", first)
		}
		_ = conn.Close()
	}
	if s := c.Sessions(); len(s) != 0 {
		t.Errorf("sessions %+v", s)
	}
}
