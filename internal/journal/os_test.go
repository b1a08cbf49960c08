package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// feed appends entries to a journal on real files, and remembers the disk.
type feed struct {
	t       testing.TB
	j       *Journal
	b       *segment.Builder
	gen     dr.Generation
	epoch   dr.Epoch
	seq     dr.Seq
	content []byte
}

func newFeed(t testing.TB, j *Journal, content []byte) *feed {
	t.Helper()
	f := &feed{t: t, j: j, b: segment.NewBuilder(segment.CodecS2), gen: 1, content: content}
	epoch, err := j.NewEpoch(1)
	f.must(err)
	f.epoch = epoch
	f.add(segment.Entry{Kind: segment.KindSyncBegin, Data: mustBinary(segment.SyncBegin{Mode: "copy"})})
	f.add(segment.Entry{Kind: segment.KindSyncEnd, Data: mustBinary(segment.SyncEnd{})})
	return f
}

func (f *feed) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// add appends entries as one frame.
func (f *feed) add(list ...segment.Entry) {
	f.t.Helper()
	f.b.Reset(f.gen, f.epoch)
	for _, e := range list {
		f.seq++
		e.Seq = f.seq
		if !f.b.Add(e) {
			f.t.Fatal("does not fit")
		}
		if e.Kind == segment.KindWrite && f.content != nil {
			copy(f.content[e.Offset:], e.Data)
		}
	}
	frame, err := f.b.Finish()
	f.must(err)
	f.must(f.j.Append(frame))
}

func (f *feed) beacon(wall time.Time) dr.Position {
	n := f.seq
	f.add(segment.Entry{Kind: segment.KindBeacon, Data: mustBinary(segment.Beacon{Wall: wall, N: n})})
	return dr.Position{Generation: f.gen, Epoch: f.epoch, Seq: n}
}

func realJournal(t testing.TB, size int64) (*Journal, string, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a", "journal")
	base := filepath.Join(filepath.Dir(filepath.Dir(dir)), "disk.raw")
	j, err := Create(t.Context(), dir, Config{
		Group: "g", Generation: 1, Disks: []dr.GroupDisk{{Machine: "vm", Disk: "disk0", SizeBytes: size}}, BasePaths: []string{base},
		Definitions: []dr.Definition{{Name: "vm"}}, RedoWindow: time.Millisecond,
	}, Options{ReserveBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return j, dir, base
}

func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("REBOUND_REQUIRE_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

// TestQEMUCannotWriteTheBase: the locks are those that QEMU looks at, in both
// directions.
func TestQEMUCannotWriteTheBase(t *testing.T) {
	j, dir, base := realJournal(t, 1<<20)
	out, err := tool(t, "qemu-io", "-f", "raw", "-c", "write 0 512", base)
	if err == nil || !strings.Contains(out, "lock") {
		t.Errorf("qemu-io wrote to the base of an open journal: %v: %s", err, out)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := tool(t, "qemu-io", "-f", "raw", "-c", "write 0 512", base); err != nil {
		t.Errorf("after Close: %v: %s", err, out)
	}
	// And while QEMU has the file, the journal does not open.
	cmd := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", base)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("length\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil { // it has opened the file
		t.Fatal(err)
	}
	_, err = Open(t.Context(), dir, Options{})
	if !problem.HasCode(err, problem.MachineInUse) || !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("open beside QEMU: %v", err)
	}
	in.Close()
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Logf("qemu-io ended: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if j, err = Open(t.Context(), dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestExport makes an image of an earlier moment of a journal whose owner was
// killed: nothing was closed.
func TestExport(t *testing.T) {
	const size = 8 << 20
	j, dir, base := realJournal(t, size)
	r := rand.New(rand.NewPCG(7, 7))
	f := newFeed(t, j, make([]byte, size))
	at := time.Unix(1700000000, 0)
	write := func() {
		data := make([]byte, 4096)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.add(segment.Entry{Kind: segment.KindWrite, Offset: r.Int64N(size - 4096), Data: data})
	}
	for range 50 {
		write()
	}
	f.beacon(at)
	for range 50 {
		write()
	}
	f.beacon(at.Add(time.Second))
	_, err := j.Sync()
	f.must(err)
	if _, err := j.Fold(t.Context(), dr.Position{}); err != nil {
		t.Fatal(err)
	}
	write()
	pos := f.beacon(at.Add(2 * time.Second))
	want := bytes.Clone(f.content)
	write()
	_, err = j.Sync()
	f.must(err)
	out := filepath.Join(t.TempDir(), "out.qcow2")
	req := ExportRequest{Selector: dr.Latest, Machine: "vm", Disk: "disk0", Out: out, Format: QCOW2}
	if _, err := Export(t.Context(), dir, req, Options{}); !problem.HasCode(err, problem.JournalInUse) {
		t.Errorf("export beside the owner: %v", err)
	}
	j.letGo() // as the end of the process does
	res, err := Export(t.Context(), dir, req, Options{})
	if err != nil || res.Position != pos {
		t.Fatalf("export: %+v, %v; want %v", res, err, pos)
	}
	raw := filepath.Join(t.TempDir(), "want.raw")
	f.must(os.WriteFile(raw, want, 0o600))
	if got, err := tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, out); err != nil {
		t.Errorf("%v: %s", err, got)
	}
	if _, err := Export(t.Context(), dir, req, Options{}); !problem.HasCode(err, problem.NameTaken) {
		t.Errorf("export onto a file: %v", err)
	}
	req.Out, req.Format = filepath.Join(t.TempDir(), "out.raw"), Raw
	if _, err := Export(t.Context(), dir, req, Options{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(req.Out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("raw export differs: %v", err)
	}
	in, err := Inspect(dir, nil)
	if err != nil || in.InUse || len(in.Segments) != 1 || in.BasePaths[0] != base {
		t.Errorf("inspect: %+v, %v", in, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "b.raw")
	good := Config{Group: "g", Generation: 1, Disks: []dr.GroupDisk{{SizeBytes: 4096}}, BasePaths: []string{base}}
	for name, c := range map[string]struct {
		edit func(*Config)
		code problem.Code
	}{
		"no disks":      {func(c *Config) { c.Disks = nil }, problem.InvalidRequest},
		"odd size":      {func(c *Config) { c.Disks = []dr.GroupDisk{{SizeBytes: 1000}} }, problem.DiskNotSupported},
		"relative base": {func(c *Config) { c.BasePaths = []string{"b"} }, problem.InvalidRequest},
		"no generation": {func(c *Config) { c.Generation = 0 }, problem.InvalidRequest},
	} {
		cfg := good
		c.edit(&cfg)
		if _, err := Create(t.Context(), filepath.Join(dir, "j"), cfg, Options{}); !problem.HasCode(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	j, err := Create(t.Context(), filepath.Join(dir, "j"), good, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Create(t.Context(), filepath.Join(dir, "j"), good, Options{}); !problem.HasCode(err, problem.NameTaken) {
		t.Errorf("created twice: %v", err)
	}
	if err := os.WriteFile(base, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), filepath.Join(dir, "k"), good, Options{}); !problem.HasCode(err, problem.DiskNotSupported) {
		t.Errorf("base larger than the disk: %v", err)
	}
}

// BenchmarkAppend is receive-append with 256 writes of 4 KiB a frame.
func BenchmarkAppend(b *testing.B) {
	j, _, _ := realJournal(b, 1<<30)
	f := newFeed(b, j, nil)
	r := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 4096)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	list := make([]segment.Entry, 255)
	b.SetBytes(255 * 4096)
	b.ReportAllocs()
	for b.Loop() {
		for i := range list {
			list[i] = segment.Entry{Kind: segment.KindWrite, Offset: r.Int64N(1<<18-1) * 4096, Data: data}
		}
		f.add(list...)
	}
}

func BenchmarkViewRead4k(b *testing.B) {
	j, _, _ := realJournal(b, 1<<30)
	f := newFeed(b, j, nil)
	r := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 4096)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for range 100 {
		var list []segment.Entry
		for range 255 {
			list = append(list, segment.Entry{Kind: segment.KindWrite, Offset: r.Int64N(1<<18-1) * 4096, Data: data})
		}
		f.add(list...)
	}
	pos := f.beacon(time.Unix(1700000000, 0))
	_, err := j.Sync()
	f.must(err)
	dev, err := j.OpenView(b.Context(), pos, 0)
	f.must(err)
	pieces := dev.(*viewDevice).layers[0].(*runMap).pieces()
	b.ReportAllocs()
	for b.Loop() {
		p := pieces[r.IntN(len(pieces))]
		f.must(dev.ReadAt(b.Context(), data, p.off))
	}
}

// BenchmarkOpenView opens a moment that is not the head, over 250,000 extents.
func BenchmarkOpenView(b *testing.B) {
	j, _, _ := realJournal(b, 100<<30)
	f := newFeed(b, j, nil)
	r := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 512)
	for range 1000 {
		var list []segment.Entry
		for range 250 {
			list = append(list, segment.Entry{Kind: segment.KindWrite, Offset: r.Int64N(100<<30/512) * 512, Data: data})
		}
		f.add(list...)
	}
	pos := f.beacon(time.Unix(1700000000, 0))
	f.add(segment.Entry{Kind: segment.KindWrite, Data: data})
	_, err := j.Sync()
	f.must(err)
	for b.Loop() {
		dev, err := j.OpenView(b.Context(), pos, 0)
		f.must(err)
		f.must(dev.Close())
	}
}
