package wire

import (
	"testing"

	"rebound/internal/lab/ledger"
)

func TestLineRoundTrip(t *testing.T) {
	e := Event{Event: "progress", Guest: "alpha", Boot: "b", Uptime: 1.5, Newest: &ledger.Ref{N: 7, CRC: 9}}
	got, ok := ParseLine(e.Line())
	if !ok || got.Event != e.Event || got.Guest != e.Guest || *got.Newest != *e.Newest {
		t.Errorf("ParseLine = %+v, %v", got, ok)
	}
	if _, ok := ParseLine(append([]byte("\x1b[2J[  1.0] noise "), e.Line()...)); !ok {
		t.Error("noise before the marker hides the event")
	}
	line := e.Line()
	for _, bad := range [][]byte{nil, []byte("hello\n"), line[:len(line)-3], []byte("LEDGER {}\n"), append(line[:20:20], []byte("[ 1.2] oops\n")...)} {
		if got, ok := ParseLine(bad); ok {
			t.Errorf("ParseLine(%q) = %+v", bad, got)
		}
	}
}

func TestIsolated(t *testing.T) {
	peer := PeerSeen{Guest: "beta", UDP: true, TCP: true}
	for _, tc := range []struct {
		name  string
		reach Reach
		peers []string
		want  bool
	}{
		{"nothing wanted, nothing seen", Reach{}, nil, true},
		{"peer seen", Reach{Peers: []PeerSeen{peer}}, []string{"beta"}, true},
		{"peer missing", Reach{}, []string{"beta"}, false},
		{"peer deaf", Reach{Peers: []PeerSeen{{Guest: "beta", UDP: true}}}, []string{"beta"}, false},
		{"stranger", Reach{Peers: []PeerSeen{peer, {Guest: "gamma", UDP: true}}}, []string{"beta"}, false},
		{"host down", Reach{Peers: []PeerSeen{peer}, Hosts: []HostSeen{{Address: "h:1"}}}, []string{"beta"}, true},
		{"host up", Reach{Peers: []PeerSeen{peer}, Hosts: []HostSeen{{Address: "h:1", Reachable: true}}}, []string{"beta"}, false},
	} {
		if ok, why := tc.reach.Isolated(tc.peers...); ok != tc.want || ok == (why != "") {
			t.Errorf("%s: %v %q", tc.name, ok, why)
		}
	}
}
