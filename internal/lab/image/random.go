package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

// newRandom returns the random stream of a seed and a purpose.
func newRandom(seed uint64, purpose string) *rand.ChaCha8 {
	return rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d/%s", seed, purpose)))
}

// fill reads random bytes; a ChaCha8 never fails.
func fill(r *rand.ChaCha8, b []byte) { _, _ = r.Read(b) }

// randomUUID makes a version 4 UUID (RFC 9562 section 5.4).
func randomUUID(r *rand.ChaCha8) string {
	var u [16]byte
	fill(r, u[:])
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// Ballast is a region of a disk that is full of incompressible data which can
// be computed again from its seed, so that a checker can verify it without a
// copy.
type Ballast struct {
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
	Seed   uint64 `json:"seed"`
	Name   string `json:"name"`
}

func (b Ballast) each(do func(chunk []byte, off int64) error) error {
	r := newRandom(b.Seed, b.Name)
	buf := make([]byte, mib)
	for done := int64(0); done < b.Size; done += int64(len(buf)) {
		buf = buf[:min(b.Size-done, mib)]
		fill(r, buf)
		if err := do(buf, b.Offset+done); err != nil {
			return err
		}
	}
	return nil
}

func (b Ballast) write(w io.WriterAt) error {
	return b.each(func(chunk []byte, off int64) error {
		if _, err := w.WriteAt(chunk, off); err != nil {
			return fmt.Errorf("write random data: %w", err)
		}
		return nil
	})
}

// Verify compares the region of a disk with what was written there.
func (b Ballast) Verify(disk io.ReaderAt) error {
	got := make([]byte, mib)
	return b.each(func(chunk []byte, off int64) error {
		if _, err := disk.ReadAt(got[:len(chunk)], off); err != nil {
			return fmt.Errorf("read random data: %w", err)
		}
		if !bytes.Equal(got[:len(chunk)], chunk) {
			return fmt.Errorf("random data differs in the MiB at %d", off)
		}
		return nil
	})
}

// uint64n returns a number below n from a random stream.
func uint64n(r *rand.ChaCha8, n uint64) uint64 {
	var b [8]byte
	fill(r, b[:])
	return binary.LittleEndian.Uint64(b[:]) % n
}
