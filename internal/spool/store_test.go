package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rebound/internal/dr"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

var seedFlag = flag.Uint64("seed", 0, "seed of random tests; 0 takes the clock")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testRand(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with -seed)", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// entryData is what entry seq of these tests carries; now and then a lot.
func entryData(seq dr.Seq) []byte {
	n := 8
	if seq%7 == 0 {
		n = 5000
	}
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, uint64(seq)*0x9e3779b97f4a7c15), n/8)
}

// frameOf builds a frame of entries first..last.
func frameOf(t testing.TB, epoch dr.Epoch, first, last dr.Seq) []byte {
	b := segment.NewBuilder(segment.CodecS2)
	b.Reset(1, epoch)
	for seq := first; seq <= last; seq++ {
		if !b.Add(segment.Entry{Seq: seq, Kind: segment.KindWrite, Offset: int64(seq) * 8192, Data: entryData(seq)}) {
			t.Fatal("frame full")
		}
	}
	frame, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(frame)
}

// readAll hands out everything after an entry and checks it; it returns the
// last entry.
func readAll(t testing.TB, s *store, after dr.Seq) dr.Seq {
	t.Helper()
	r := newReader(s)
	for {
		frame, last, err := r.Next(context.Background(), after)
		if errors.Is(err, io.EOF) {
			return after
		}
		if err != nil {
			t.Fatalf("read after %d: %v", after, err)
		}
		f, err := segment.ParseFrame(frame)
		if err != nil {
			t.Fatal(err)
		}
		if f.First != after+1 || f.Last() != last {
			t.Fatalf("got entries %d to %d after %d, said up to %d", f.First, f.Last(), after, last)
		}
		for m := range f.Entries() {
			data := make([]byte, m.PayloadLength)
			if err := f.ReadPayload(data, m.PayloadOffset); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data, entryData(m.Seq)) {
				t.Fatalf("entry %d is not what was put in", m.Seq)
			}
		}
		after = last
	}
}

// TestStoreModel: whatever was made durable survives crashes and is handed out
// in order from any entry on; what was delivered takes no room for long.
func TestStoreModel(t *testing.T) {
	r := testRand(t)
	for range 10 {
		m := &storeModel{t: t, r: r, fs: vfs.NewMem(0)}
		m.open()
		m.beginAt(dr.Seq(r.IntN(50)))
		for range 120 {
			m.step()
		}
		m.s.close()
	}
}

type storeModel struct {
	t         *testing.T
	r         *rand.Rand
	fs        *vfs.Mem
	s         *store
	epoch     dr.Epoch
	base      dr.Seq
	appended  dr.Seq
	durable   dr.Seq // at least
	delivered dr.Seq
}

var testLimits = Limits{Bytes: 1 << 20, FileBytes: 20 << 10, FreeBytes: -1}

func (m *storeModel) open() {
	m.t.Helper()
	var err error
	if m.s, err = openStore(m.fs, "/spool", "g", testLimits, nil); err != nil {
		m.t.Fatal(err)
	}
}

func (m *storeModel) beginAt(after dr.Seq) {
	m.t.Helper()
	m.epoch++
	got, err := m.s.begin(1, m.epoch, after)
	if err != nil || got != after {
		m.t.Fatalf("begin epoch %d after %d: %d, %v", m.epoch, after, got, err)
	}
	m.base, m.appended, m.durable, m.delivered = after, after, after, after
}

func (m *storeModel) step() {
	m.t.Helper()
	switch m.r.IntN(10) {
	case 0:
		m.crash()
	case 1, 2:
		if err := m.s.sync(); err != nil {
			m.t.Fatal(err)
		}
		m.durable = m.appended
	case 3:
		m.delivered = max(m.delivered, m.base+dr.Seq(m.r.IntN(int(m.durable-m.base)+1)))
		if err := m.s.trim(m.delivered); err != nil {
			m.t.Fatal(err)
		}
	case 4:
		from := m.delivered + dr.Seq(m.r.IntN(int(m.durable-m.delivered)+1))
		if err := m.s.sync(); err != nil {
			m.t.Fatal(err)
		}
		m.durable = m.appended
		if got := readAll(m.t, m.s, from); got != m.appended {
			m.t.Fatalf("read up to %d from %d, want %d", got, from, m.appended)
		}
	case 5:
		m.another()
	default:
		m.append()
	}
}

func (m *storeModel) append() {
	n := dr.Seq(1 + m.r.IntN(20))
	err := m.s.append(frameOf(m.t, m.epoch, m.appended+1, m.appended+n))
	if problem.HasCode(err, problem.NoRoom) && m.s.state().Bytes > testLimits.Bytes/2 {
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.appended += n
}

// another begins the next epoch, which works only when all was delivered.
func (m *storeModel) another() {
	_, err := m.s.begin(1, m.epoch+1, 0)
	if m.delivered < m.appended {
		if err == nil {
			m.t.Fatalf("epoch %d was begun over undelivered entries", m.epoch+1)
		}
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.beginAt(0)
}

func (m *storeModel) crash() {
	m.t.Helper()
	m.fs.Crash(m.r)
	m.open()
	st := m.s.state()
	if len(m.s.files) == 0 { // nothing was ever synced, or all was delivered
		if m.durable > m.delivered {
			m.t.Fatalf("entries %d to %d were durable and are gone", m.delivered+1, m.durable)
		}
		m.beginAt(m.appended)
		return
	}
	if st.Epoch != m.epoch || st.Durable < m.durable || st.Durable > m.appended || m.s.first() > m.delivered {
		m.t.Fatalf("found %+v after %d, want epoch %d, at least %d of %d, delivered %d", st, m.s.first(), m.epoch, m.durable, m.appended, m.delivered)
	}
	if got := readAll(m.t, m.s, max(m.delivered, m.s.first())); got != st.Durable {
		m.t.Fatalf("read up to %d, want %d", got, st.Durable)
	}
	m.base, m.appended, m.durable = m.s.first(), st.Durable, st.Durable
	if err := m.s.trim(m.delivered); err != nil {
		m.t.Fatal(err)
	}
	m.delivered = max(m.delivered, m.base)
}

// TestLimits: over a limit nothing is taken and nothing is lost.
func TestLimits(t *testing.T) {
	fs := vfs.NewMem(1 << 20)
	s, err := openStore(fs, "/spool", "g", Limits{Bytes: 1 << 30, FreeBytes: 256 << 10}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := s.begin(1, 1, 0); err != nil {
		t.Fatal(err)
	}
	var last dr.Seq
	for err == nil {
		if err = s.append(frameOf(t, 1, last+1, last+20)); err == nil {
			last += 20
		}
	}
	if !problem.HasCode(err, problem.NoRoom) {
		t.Fatalf("the volume is full: %v", err)
	}
	if free, _ := fs.Free("/"); free < 256<<10 {
		t.Errorf("%d bytes are left", free)
	}
	if err := s.sync(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, s, 0); got != last {
		t.Errorf("read up to %d, want %d", got, last)
	}
}

// TestVolumeFails: after an error of the volume nothing is acknowledged.
func TestVolumeFails(t *testing.T) {
	fs := vfs.NewMem(0)
	s, err := openStore(fs, "/spool", "g", testLimits, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := s.begin(1, 1, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.append(frameOf(t, 1, 1, 3)); err != nil {
		t.Fatal(err)
	}
	fs.Hook = func(op, _ string) error {
		if op == "sync" {
			return errors.New("I/O error")
		}
		return nil
	}
	if err := s.sync(); !problem.HasCode(err, problem.SpoolFailed) {
		t.Errorf("sync: %v", err)
	}
	if got := s.state().Durable; got != 0 {
		t.Errorf("durable up to %d", got)
	}
	if err := s.append(frameOf(t, 1, 4, 4)); !problem.HasCode(err, problem.SpoolFailed) {
		t.Errorf("append: %v", err)
	}
}

// TestDamageIsTold: a frame that has rotted is not handed out.
func TestDamageIsTold(t *testing.T) {
	fs := vfs.NewMem(0)
	s, err := openStore(fs, "/spool", "g", testLimits, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := s.begin(1, 1, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.append(frameOf(t, 1, 1, 9)); err != nil {
		t.Fatal(err)
	}
	if err := s.sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.files[0].f.WriteAt([]byte{0xff, 0xfe}, segment.FileHeaderSize+segment.HeaderSize+100); err != nil {
		t.Fatal(err)
	}
	_, _, err = newReader(s).Next(context.Background(), 0)
	if !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("read: %v", err)
	}
}
