package segment

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rebound/internal/dr"
)

func testKey(t testing.TB, fill byte) *Key {
	t.Helper()
	k, err := NewKey(bytes.Repeat([]byte{fill}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sealed packs entries and encrypts the frame.
func sealed(t testing.TB, k *Key, codec Codec, entries []Entry) (plain, stored []byte) {
	t.Helper()
	b := NewBuilder(codec)
	b.Reset(3, 4)
	for _, e := range entries {
		if !b.Add(e) {
			break
		}
	}
	buf, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	plain = bytes.Clone(buf)
	f, err := ParseFrame(plain)
	if err != nil {
		t.Fatal(err)
	}
	if stored, err = k.Seal(nil, &f); err != nil {
		t.Fatal(err)
	}
	return plain, stored
}

func TestSealedFrame(t *testing.T) {
	k, other := testKey(t, 7), testKey(t, 8)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	for name, codec := range codecs() {
		t.Run(name, func(t *testing.T) {
			entries := sample(r, 1, 40)
			secret := []byte("what nobody else may read")
			entries = append(entries, Entry{Seq: 41, Kind: KindWrite, Data: bytes.Clone(secret)})
			plain, stored := sealed(t, k, codec, entries)
			if bytes.Contains(stored, secret) {
				t.Error("the content is readable")
			}
			if _, err := ParseFrame(stored); !errors.Is(err, ErrVersion) {
				t.Errorf("a frame that travels may be encrypted: %v", err)
			}
			f, err := ParseStored(stored)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.ReadPayload(make([]byte, 10), 0); !errors.Is(err, ErrSealed) {
				t.Errorf("read without the key: %v", err)
			}
			if _, err := f.WithKey(nil); !errors.Is(err, ErrSealed) {
				t.Errorf("no key: %v", err)
			}
			wrong, err := f.WithKey(other)
			if err != nil {
				t.Fatal(err)
			}
			if err := wrong.ReadPayload(make([]byte, 10), f.Payload-10); err == nil {
				t.Error("read with another key")
			}
			if f, err = f.WithKey(k); err != nil {
				t.Fatal(err)
			}
			want, _ := ParseFrame(plain)
			for range 200 {
				off := r.IntN(f.Payload)
				n := 1 + r.IntN(min(f.Payload-off, 70000))
				a, b := make([]byte, n), make([]byte, n)
				if err := f.ReadPayload(a, off); err != nil {
					t.Fatal(err)
				}
				if err := want.ReadPayload(b, off); err != nil || !bytes.Equal(a, b) {
					t.Fatalf("payload [%d, +%d) differs, %v", off, n, err)
				}
			}
			back, err := f.Unseal(nil)
			if err != nil || !bytes.Equal(back, plain) {
				t.Errorf("the plain form differs, %v", err)
			}
		})
	}
}

// TestSaltNeverRepeats: the same frame, sealed twice, has nothing in common.
func TestSaltNeverRepeats(t *testing.T) {
	k := testKey(t, 7)
	e := []Entry{{Seq: 1, Kind: KindWrite, Data: bytes.Repeat([]byte("x"), 5000)}}
	_, a := sealed(t, k, CodecNone, e)
	_, b := sealed(t, k, CodecNone, e)
	if bytes.Equal(a[HeaderSize:HeaderSize+64], b[HeaderSize:HeaderSize+64]) {
		t.Error("two frames were encrypted with the same key stream")
	}
}

// TestSealedDamage: a changed byte of an encrypted frame is found without the
// key; one that was changed with its checksums, with it.
func TestSealedDamage(t *testing.T) {
	k := testKey(t, 7)
	_, stored := sealed(t, k, CodecS2, []Entry{{Seq: 1, Kind: KindWrite, Data: bytes.Repeat([]byte("x1"), 5000)}})
	for i := range stored {
		bad := bytes.Clone(stored)
		bad[i] ^= 1
		if _, err := ParseStored(bad); err == nil {
			t.Fatalf("byte %d was changed, and nobody noticed", i)
		}
	}
	f, _ := ParseStored(stored)
	f, _ = f.WithKey(k)
	f.First++ // the frame of another place
	f.tables.h.First++
	if err := f.ReadPayload(make([]byte, 8), 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("a frame moved in the stream: %v", err)
	}
}

func TestSealBytes(t *testing.T) {
	k := testKey(t, 7)
	s, err := k.SealBytes([]byte("head"), []byte("definition"), "controls 1")
	if err != nil || !bytes.HasPrefix(s, []byte("head")) || bytes.Contains(s, []byte("definition")) {
		t.Fatalf("%x, %v", s, err)
	}
	s = s[4:]
	if p, err := k.OpenBytes(s, "controls 1"); err != nil || string(p) != "definition" {
		t.Errorf("%q, %v", p, err)
	}
	for name, f := range map[string]func() ([]byte, error){
		"another use": func() ([]byte, error) { return k.OpenBytes(s, "keys 1") },
		"another key": func() ([]byte, error) { return testKey(t, 8).OpenBytes(s, "controls 1") },
		"changed":     func() ([]byte, error) { return k.OpenBytes(append(s[:len(s)-1:len(s)-1], s[len(s)-1]^1), "controls 1") },
	} {
		if _, err := f(); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := k.OpenBytes(s[:10], "controls 1"); !errors.Is(err, ErrShort) {
		t.Errorf("short: %v", err)
	}
}

// TestSealedGolden holds the encrypted format still.
func TestSealedGolden(t *testing.T) {
	k := testKey(t, 7)
	b := NewBuilder(CodecS2)
	b.Reset(2, 5)
	frame := pack(t, b, []Entry{
		{Seq: 41, Kind: KindWrite, Disk: 1, Offset: 8192, Data: bytes.Repeat([]byte("rebound "), 64)},
		{Seq: 42, Kind: KindZero, Length: 4096},
	})
	f, err := ParseFrame(frame)
	if err != nil {
		t.Fatal(err)
	}
	var salt [saltSize]byte
	for i := range salt {
		salt[i] = byte(i)
	}
	stored, err := k.seal(nil, &f, salt)
	if err != nil {
		t.Fatal(err)
	}
	list, err := k.sealBytes(nil, []byte("controls"), "controls 1", salt)
	if err != nil {
		t.Fatal(err)
	}
	head, _ := FileHeader{Number: 1, Generation: 2, Epoch: 5, First: 41, Group: 7, Key: k.ID()}.MarshalBinary()
	for name, got := range map[string][]byte{"sealed-frame": stored, "sealed-bytes": list, "sealed-header": head} {
		path := filepath.Join("testdata", name+".hex")
		text := hex.EncodeToString(got) + "\n"
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(want)) != strings.TrimSpace(text) {
			t.Errorf("%s differs from its golden bytes, %v", name, err)
		}
	}
	var back FileHeader
	if err := back.UnmarshalBinary(head); err != nil || back.Key != k.ID() {
		t.Errorf("%+v, %v", back, err)
	}
}

func FuzzParseStored(f *testing.F) {
	k := testKey(f, 7)
	_, stored := sealed(f, k, CodecS2, []Entry{{Seq: 1, Kind: KindWrite, Data: bytes.Repeat([]byte("xyz"), 2000)}, {Seq: 2, Kind: KindZero, Length: 9}})
	f.Add(stored, true)
	f.Add(stored, false)
	f.Fuzz(func(t *testing.T, buf []byte, mended bool) {
		buf = bytes.Clone(buf)
		if mended {
			mend(buf)
		}
		fr, err := ParseStored(buf)
		if err != nil {
			return
		}
		if len(fr.Bytes()) != fr.Size {
			t.Fatalf("%d bytes of a frame of %d", len(fr.Bytes()), fr.Size)
		}
		if fr, err = fr.WithKey(k); err != nil {
			t.Fatal(err)
		}
		var data [MaxPayload]byte
		_ = fr.ReadPayload(data[:fr.Payload], 0)
		if plain, err := fr.Unseal(nil); err == nil {
			if _, err := ParseFrame(plain); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k := testKey(b, 7)
	data := make([]byte, 64<<10)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	var entries []Entry
	for i := range dr.Seq(16) {
		entries = append(entries, Entry{Seq: 1 + i, Kind: KindWrite, Offset: int64(i) << 16, Data: data})
	}
	plain, stored := sealed(b, k, CodecNone, entries)
	f, _ := ParseFrame(plain)
	b.Run("seal", func(b *testing.B) {
		b.SetBytes(int64(len(plain)))
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf, _ = k.Seal(buf[:0], &f)
		}
	})
	b.Run("read-4k", func(b *testing.B) {
		g, _ := ParseStored(stored)
		g, _ = g.WithKey(k)
		var s Scratch
		buf := make([]byte, 4096)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := g.ReadPayloadWith(&s, buf, (i*4096)%(g.Payload-4096)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
