package control

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// recorder implements Commands; every method notes its arguments and returns
// what answer says.
type recorder struct {
	mu     sync.Mutex
	calls  []string
	args   []any
	err    error
	during func(ctx context.Context)
}

func (r *recorder) note(ctx context.Context, name string, args ...any) error {
	r.mu.Lock()
	r.calls = append(r.calls, name)
	r.args = args
	err, during := r.err, r.during
	r.mu.Unlock()
	if during != nil {
		during(ctx)
	}
	return err
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

func (r *recorder) Inventory(ctx context.Context) (Inventory, error) {
	return Inventory{Site: "s", FreeBytes: 7}, r.note(ctx, "Inventory")
}

func (r *recorder) Support(ctx context.Context) (SupportFiles, error) {
	return SupportFiles{Files: []SupportFile{{Name: "n", Data: []byte("d")}}}, r.note(ctx, "Support")
}

func (r *recorder) ImportMachine(ctx context.Context, o Origin, a ImportRequest) (site.Machine, error) {
	return site.Machine{State: site.Running}, r.note(ctx, "ImportMachine", o, a)
}

func (r *recorder) StartMachine(ctx context.Context, o Origin, a MachineRequest) error {
	return r.note(ctx, "StartMachine", o, a)
}

func (r *recorder) StopMachine(ctx context.Context, o Origin, a StopRequest) error {
	return r.note(ctx, "StopMachine", o, a)
}

func (r *recorder) DeleteMachine(ctx context.Context, o Origin, a DeleteRequest) (Deleted, error) {
	return Deleted{Removed: []string{"x"}}, r.note(ctx, "DeleteMachine", o, a)
}

func (r *recorder) ValidateSite(ctx context.Context, o Origin, a ValidateRequest) (ValidateResult, error) {
	return ValidateResult{Checks: []SiteCheck{{Name: "x"}}}, r.note(ctx, "ValidateSite", o, a)
}

func (r *recorder) Probe(ctx context.Context, addr string) error { return r.note(ctx, "Probe", addr) }

func (r *recorder) Console(ctx context.Context, a ConsoleRequest) (site.ConsoleView, error) {
	return site.ConsoleView{Machine: a.Machine, Text: "up"}, r.note(ctx, "Console", a)
}

func (r *recorder) MachineEvidence(ctx context.Context, a EvidenceRequest) (Evidence, error) {
	return Evidence{GuestAgent: true}, r.note(ctx, "MachineEvidence", a)
}

func (r *recorder) StartReplication(ctx context.Context, o Origin, a ReplicationSpec) error {
	return r.note(ctx, "StartReplication", o, a)
}

func (r *recorder) StopReplication(ctx context.Context, o Origin, a StopReplicationRequest) (StopReplicationResult, error) {
	return StopReplicationResult{Clean: true, Durable: dr.Position{Generation: 1, Epoch: 2, Seq: 3}}, r.note(ctx, "StopReplication", o, a)
}

func (r *recorder) Fence(ctx context.Context, o Origin, a FenceRequest) error {
	return r.note(ctx, "Fence", o, a)
}

func (r *recorder) CreatePoint(ctx context.Context, o Origin, a CreatePointRequest) (dr.Point, error) {
	return dr.Point{ID: "p"}, r.note(ctx, "CreatePoint", o, a)
}

func (r *recorder) Resync(ctx context.Context, o Origin, a ResyncRequest) error {
	return r.note(ctx, "Resync", o, a)
}

func (r *recorder) CreateJournal(ctx context.Context, o Origin, a CreateJournalRequest) (CreateJournalResult, error) {
	return CreateJournalResult{Seeded: true}, r.note(ctx, "CreateJournal", o, a)
}

func (r *recorder) DeleteJournal(ctx context.Context, o Origin, a DeleteJournalRequest) error {
	return r.note(ctx, "DeleteJournal", o, a)
}

func (r *recorder) Seal(ctx context.Context, o Origin, a SealRequest) (SealResult, error) {
	return SealResult{Durable: dr.Position{Generation: 9, Epoch: 1, Seq: 1}}, r.note(ctx, "Seal", o, a)
}

func (r *recorder) Points(ctx context.Context, a PointsRequest) (Points, error) {
	return Points{Points: []dr.Point{{ID: "q"}}}, r.note(ctx, "Points", a)
}

func (r *recorder) ResolvePoint(ctx context.Context, a ResolveRequest) (Resolved, error) {
	return Resolved{LostBytes: 5}, r.note(ctx, "ResolvePoint", a)
}

func (r *recorder) Prerequisites(ctx context.Context, a PrerequisitesRequest) (Prerequisites, error) {
	return Prerequisites{DiskLimit: 3}, r.note(ctx, "Prerequisites", a)
}

func (r *recorder) ProbePath(ctx context.Context, a ProbeRequest) (ProbeResult, error) {
	return ProbeResult{Seconds: 1}, r.note(ctx, "ProbePath", a)
}

func (r *recorder) StartRecovered(ctx context.Context, o Origin, a StartRecoveredRequest) (Recovered, error) {
	return Recovered{Machine: "m"}, r.note(ctx, "StartRecovered", o, a)
}

func (r *recorder) DiscardRecovered(ctx context.Context, o Origin, a DiscardRecoveredRequest) error {
	return r.note(ctx, "DiscardRecovered", o, a)
}

func (r *recorder) CommitRecovered(ctx context.Context, o Origin, a CommitRequest) (CommitResult, error) {
	return CommitResult{RollbackBytes: 3}, r.note(ctx, "CommitRecovered", o, a)
}

func (r *recorder) Holdings(ctx context.Context) (Holdings, error) {
	return Holdings{Gateway: "gw"}, r.note(ctx, "Holdings")
}

func (r *recorder) RunScript(ctx context.Context, o Origin, a ScriptRequest) (ScriptResult, error) {
	return ScriptResult{ExitCode: 3}, r.note(ctx, "RunScript", o, a)
}

func (r *recorder) CallHTTP(ctx context.Context, o Origin, a CallRequest) (CallResult, error) {
	return CallResult{Status: 200}, r.note(ctx, "CallHTTP", o, a)
}

func (r *recorder) SetRevoked(ctx context.Context, a []identity.Revocation) error {
	return r.note(ctx, "SetRevoked", a)
}

func (r *recorder) Verify(ctx context.Context, o Origin, g dr.GroupID) (VerifyResult, error) {
	return VerifyResult{Bytes: 1}, r.note(ctx, "Verify", o, g)
}

// connected is a served recorder and a client to it over TCP.
type connected struct {
	client *Client
	server *Server
	rec    *recorder
	ledger *Ledger
	path   string
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return a, <-got
}

func connect(t *testing.T) *connected {
	t.Helper()
	c := &connected{rec: &recorder{}, path: filepath.Join(t.TempDir(), "ledger")}
	var err error
	if c.ledger, err = OpenLedger(c.path, time.Now()); err != nil {
		t.Fatal(err)
	}
	c.server = NewServer(t.Context(), c.rec, c.ledger, testLogger(t))
	c.dial(t)
	t.Cleanup(func() { c.server.Close(); c.ledger.Close() })
	return c
}

// dial gives the client a new connection to the same server.
func (c *connected) dial(t *testing.T) {
	t.Helper()
	a, b := tcpPair(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	go c.server.Serve(ctx, a) //nolint:errcheck // ends with the connection
	c.client = NewClient(b)
	t.Cleanup(func() { b.Close() })
}

// fill makes a value with every field set to something that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(3 * time.Second))
	case reflect.Uint64, reflect.Uint16:
		v.SetUint(2)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[Keep]() {
			v.SetBytes([]byte(`{"a":1}`))
			return
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{1, 2})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
}

// TestEveryCommandCrossesTheWire calls each method of Commands through a
// client and demands that the same method ran with the same arguments, and
// that its result or its problem came back.
func TestEveryCommandCrossesTheWire(t *testing.T) {
	iface := reflect.TypeFor[Commands]()
	if n := len(commandTable()); n != iface.NumMethod() {
		t.Fatalf("the table has %d commands, the interface %d", n, iface.NumMethod())
	}
	for i := range iface.NumMethod() {
		m := iface.Method(i)
		t.Run(m.Name, func(t *testing.T) {
			c := connect(t)
			in := []reflect.Value{reflect.ValueOf(context.WithoutCancel(t.Context()))}
			var sent []any
			for k := 1; k < m.Type.NumIn(); k++ {
				v := reflect.New(m.Type.In(k)).Elem()
				fill(v)
				in, sent = append(in, v), append(sent, v.Interface())
			}
			out := reflect.ValueOf(c.client).MethodByName(m.Name).Call(in)
			if err := out[len(out)-1]; !err.IsNil() {
				t.Fatal(err.Interface())
			}
			if len(c.rec.calls) != 1 || c.rec.calls[0] != m.Name {
				t.Fatalf("ran %v", c.rec.calls)
			}
			if len(sent) > 0 && !reflect.DeepEqual(c.rec.args, sent) {
				t.Errorf("arguments\n got %+v\nsent %+v", c.rec.args, sent)
			}
			if len(out) == 2 && out[0].IsZero() {
				t.Error("the result got lost")
			}

			fails := connect(t)
			fails.rec.err = problem.Wrap(errors.New("the cause"), problem.NoRoom, "volume v")
			out = reflect.ValueOf(fails.client).MethodByName(m.Name).Call(in)
			err, _ := out[len(out)-1].Interface().(error)
			p := problem.From(err)
			if p.Code != problem.NoRoom || p.RecommendedAction == "" || !strings.Contains(p.Error(), "volume v") {
				t.Errorf("problem came back as %v", err)
			}
		})
	}
}
