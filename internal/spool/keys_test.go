package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"rebound/internal/journal/keyring"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// TestEncryptedSpool: what lies in the spool is encrypted, what it delivers is
// not; without the key nothing is lost.
func TestEncryptedSpool(t *testing.T) {
	fs := vfs.NewMem(0)
	w, err := keyring.Parse([]byte(strings.Repeat("0f", segment.KeySize)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStore(fs, "/spool", "g", Limits{FreeBytes: -1, FileBytes: 8 << 10}, w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.begin(1, 1, 0); err != nil {
		t.Fatal(err)
	}
	b := segment.NewBuilder(segment.CodecNone)
	var sent [][]byte
	secret := bytes.Repeat([]byte("secret"), 500)
	for seq := range 10 {
		b.Reset(1, 1)
		e := segment.Entry{Kind: segment.KindWrite, Data: secret}
		e.Seq += 1
		for range seq {
			e.Seq++
		}
		b.Add(e)
		frame, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, bytes.Clone(frame))
		if err := s.append(frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.sync(); err != nil {
		t.Fatal(err)
	}
	for _, fl := range s.files {
		raw := make([]byte, fl.size)
		if _, err := fl.f.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if bytes.Contains(raw, secret[:100]) {
			t.Errorf("%s holds readable content", fl.path)
		}
	}
	s.close()
	if _, err := openStore(fs, "/spool", "g", Limits{FreeBytes: -1}, nil); !problem.HasCode(err, problem.KeyMissing) {
		t.Errorf("opened without the key: %v", err)
	}
	if s, err = openStore(fs, "/spool", "g", Limits{FreeBytes: -1}, w); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	r := newReader(s)
	after := s.base
	for i := range sent {
		frame, last, err := r.Next(context.Background(), after)
		if err != nil || !bytes.Equal(frame, sent[i]) {
			t.Fatalf("frame %d differs, %v", i, err)
		}
		after = last
	}
}
