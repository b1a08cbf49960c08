// Package wire is what lab guests and the host say to each other: the file
// that configures a guest, the lines on its console, and the messages between
// guest and collector. It holds types and their text forms only; the lab's
// guest, collector, image builder and checker use it.
package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"rebound/internal/lab/ledger"
)

// Labels of the two ext4 file systems, by which a guest finds them whatever
// the disks are called.
const (
	LabelFirst  = "ledger0"
	LabelSecond = "ledger1"
)

// Names of files inside those file systems.
const (
	// ConfigPath holds a GuestConfig, on the first file system.
	ConfigPath = "guest.json"
	// AgentDir is where the agent keeps its key and certificate, on the
	// first file system.
	AgentDir = "agent"
	// LedgerPath is the ledger's file, on either file system.
	LedgerPath = "ledger"
	// HookPath is where the hook of the QEMU guest agent counts its freezes,
	// on the first file system.
	HookPath = "frozen"
	// AgentProgram and AgentHook are the QEMU guest agent and its hook, in
	// the guest's root.
	AgentProgram = "/usr/sbin/qemu-ga"
	AgentHook    = "/etc/qemu/fsfreeze-hook"
)

// Window is how many reported records a guest lets stand unanswered before it
// stops writing. So while a guest is connected, the newest record on its disks
// is at most Window+1 ahead of the newest that the collector has received.
const Window = 32

// GuestConfig configures a lab guest; see ConfigPath.
type GuestConfig struct {
	Name string `json:"name"`
	// Peer is the guest whose durable records this one's name; empty: none.
	Peer string `json:"peer,omitempty"`
	// Collector is the host's address as the guest sees it, such as
	// "10.0.2.2:7000"; empty: none.
	Collector string `json:"collector,omitempty"`
	// RecordsPerSecond is the rate until the collector says otherwise;
	// 0 writes none until it does.
	RecordsPerSecond float64 `json:"recordsPerSecond"`
	// Reach are TCP addresses that the guest tries to reach and reports,
	// besides its peers and the collector.
	Reach []string `json:"reach,omitempty"`
	// Agent configures the mobility agent; nil runs none.
	Agent *AgentConfig `json:"agent,omitempty"`
}

// AgentConfig tells a guest's agent where to enrol.
type AgentConfig struct {
	Vault      string `json:"vault"` // such as "https://10.0.2.2:8443"
	Machine    string `json:"machine"`
	Passphrase string `json:"passphrase"`
	CA         string `json:"ca"` // the vault's CA certificate, PEM
}

// Marker begins every console line that is meant for programs.
const Marker = "LEDGER "

// Event is a console line: Marker followed by this as JSON.
type Event struct {
	// Event is "boot", "state", "first", "progress", "reach", "agent",
	// "stopping", "stopped" or "error".
	Event string `json:"event"`
	Guest string `json:"guest,omitempty"`
	Boot  string `json:"boot,omitempty"`
	// Uptime is seconds since the guest's kernel started.
	Uptime float64       `json:"uptime"`
	State  *ledger.State `json:"state,omitempty"`
	// Newest is the newest durable record of "state", "first", "progress"
	// and "stopping".
	Newest *ledger.Ref `json:"newest,omitempty"`
	Reach  *Reach      `json:"reach,omitempty"`
	Detail string      `json:"detail,omitempty"`
}

// Line returns the console line, newline included.
func (e Event) Line() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		// Every field marshals; see the types above.
		panic("wire: marshal event: " + err.Error())
	}
	return append(append([]byte(Marker), b...), '\n')
}

// ParseLine reads a console line; ok is false for any that is no event, such
// as one that a crash cut short or the kernel wrote into.
func ParseLine(line []byte) (e Event, ok bool) {
	_, rest, found := bytes.Cut(line, []byte(Marker))
	if !found {
		return Event{}, false
	}
	if err := json.Unmarshal(bytes.TrimSpace(rest), &e); err != nil || e.Event == "" {
		return Event{}, false
	}
	return e, true
}

// Reach is what a guest can reach from inside.
type Reach struct {
	NICs  []NIC      `json:"nics"`
	Peers []PeerSeen `json:"peers"`
	Hosts []HostSeen `json:"hosts"`
}

// NIC is one network card of a guest as it came up.
type NIC struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
	// Address is in CIDR form; DHCP says where it came from.
	Address string `json:"address"`
	DHCP    bool   `json:"dhcp"`
	Gateway string `json:"gateway,omitempty"`
}

// PeerSeen is another lab guest that was heard.
type PeerSeen struct {
	Guest   string `json:"guest"`
	Boot    string `json:"boot"`
	Address string `json:"address"`
	// UDP: its broadcast was heard. TCP: a request over TCP was answered.
	UDP bool `json:"udp"`
	TCP bool `json:"tcp"`
}

// HostSeen is an address that was tried.
type HostSeen struct {
	Address   string `json:"address"`
	Reachable bool   `json:"reachable"`
	Error     string `json:"error,omitempty"`
}

// Isolated reports whether the guest reached each of the wanted peers, over
// UDP and TCP, and nothing else at all. why says what is against it.
func (r Reach) Isolated(wantPeers ...string) (ok bool, why string) {
	want := make(map[string]bool)
	for _, p := range wantPeers {
		want[p] = false
	}
	for _, p := range r.Peers {
		if _, known := want[p.Guest]; !known {
			return false, fmt.Sprintf("heard of %q at %s", p.Guest, p.Address)
		}
		want[p.Guest] = want[p.Guest] || p.UDP && p.TCP
	}
	for _, p := range wantPeers {
		if !want[p] {
			return false, fmt.Sprintf("did not reach %q", p)
		}
	}
	for _, h := range r.Hosts {
		if h.Reachable {
			return false, "reached " + h.Address
		}
	}
	return true, ""
}

// The kinds of messages from a guest to the collector.
const (
	// KindHello is the first message of every connection.
	KindHello = "hello"
	// KindAck says that record N is durable.
	KindAck = "ack"
	// KindReach carries a Reach.
	KindReach = "reach"
	// KindLedger says that Size bytes of raw ledger content follow: first
	// file, then second. Sent once a boot, on a connection of its own,
	// after its own hello with Upload set.
	KindLedger = "ledger"
	// KindStopping is the last message before an orderly power-off.
	KindStopping = "stopping"
)

// Message is one JSON line from guest to collector.
type Message struct {
	Kind  string `json:"kind"`
	Guest string `json:"guest,omitempty"` // hello
	Peer  string `json:"peer,omitempty"`  // hello
	Boot  string `json:"boot,omitempty"`  // hello
	// Upload marks the hello of a connection that carries a ledger only.
	Upload bool `json:"upload,omitempty"`
	// State is what the boot found on its disks (hello).
	State *ledger.State `json:"state,omitempty"`
	NICs  []NIC         `json:"nics,omitempty"` // hello
	// Record is the newest durable one (hello), or the one that became
	// durable (ack).
	Record ledger.Ref `json:"record"`
	// Names is the peer's record that Record names (ack).
	Names ledger.Ref `json:"names"`
	// Wall is the guest's clock, Unix nanoseconds.
	Wall int64 `json:"wall,omitempty"`
	// Uptime is seconds since the guest's kernel started.
	Uptime float64             `json:"uptime,omitempty"`
	Reach  *Reach              `json:"reach,omitempty"`
	Sizes  [ledger.Files]int64 `json:"sizes,omitzero"` // ledger
}

// Reply is one JSON line from collector to guest. There is one for the hello,
// at least one for every Window/2 acks, and one when a setting changes.
type Reply struct {
	// Received is the newest record that the collector has received.
	Received uint64 `json:"received"`
	// Peer is the newest record of the guest's peer that is known to be
	// durable in the same world; zero when none is.
	Peer ledger.Ref `json:"peer"`
	// RecordsPerSecond replaces the configured rate when not nil.
	RecordsPerSecond *float64 `json:"recordsPerSecond,omitempty"`
	Paused           bool     `json:"paused,omitempty"`
	// Agent replaces the guest's agent configuration when not nil.
	Agent *AgentConfig `json:"agent,omitempty"`
}

// Time returns the guest's clock of a message.
func (m Message) Time() time.Time { return time.Unix(0, m.Wall).UTC() }
