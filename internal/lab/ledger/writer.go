package ledger

import (
	"fmt"
	"io"
	"os"
	"time"
)

// file is what the writer needs of a file; *os.File is one.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

// Writer appends records to a ledger. One goroutine uses it.
type Writer struct {
	files  [Files]file
	guest  string
	boot   [16]byte
	newest Ref
	buf    []byte
}

// Open opens a ledger's two files, made when missing, and prepares to go on
// after the newest record of the gapless prefix. What lies beyond the prefix
// is cut off, durably. The returned Ledger and raw contents are what was found.
func Open(paths [Files]string, guest string, boot [16]byte) (*Writer, *Ledger, [Files][]byte, error) {
	w := &Writer{guest: guest, boot: boot}
	var content [Files][]byte
	for i, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			w.files[i] = f
			content[i], err = io.ReadAll(f)
		}
		if err != nil {
			_ = w.Close()
			return nil, nil, content, fmt.Errorf("open ledger file: %w", err)
		}
	}
	found := Parse(content)
	w.newest = found.State.Newest
	if err := w.cut(); err != nil {
		_ = w.Close()
		return nil, nil, content, err
	}
	return w, found, content, nil
}

// cut makes both files end where the prefix ends.
func (w *Writer) cut() error {
	for i, f := range w.files {
		slots := (w.newest.N + uint64(Files-1-i)) / Files
		if err := f.Truncate(int64(slots) * RecordSize); err != nil {
			return fmt.Errorf("cut ledger file %d: %w", i, err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync ledger file %d: %w", i, err)
		}
	}
	return nil
}

// Newest returns the newest durable record.
func (w *Writer) Newest() Ref { return w.newest }

// Append writes the next record and returns it once it is durable. After an
// error the ledger must be opened again.
func (w *Writer) Append(now time.Time, peer Ref) (Record, error) {
	r := Record{N: w.newest.N + 1, Wall: now, Boot: w.boot, Peer: peer, Prev: w.newest.CRC, Guest: w.guest}
	var err error
	if w.buf, r.CRC, err = r.Encode(w.buf[:0]); err != nil {
		return Record{}, err
	}
	i, off := FileOf(r.N)
	if _, err := w.files[i].WriteAt(w.buf, off); err != nil {
		return Record{}, fmt.Errorf("write ledger record %d: %w", r.N, err)
	}
	if err := w.files[i].Sync(); err != nil {
		return Record{}, fmt.Errorf("sync ledger record %d: %w", r.N, err)
	}
	w.newest = r.Ref()
	return r, nil
}

// Close closes the files.
func (w *Writer) Close() error {
	var first error
	for _, f := range w.files {
		if f == nil {
			continue
		}
		if err := f.Close(); err != nil && first == nil {
			first = fmt.Errorf("close ledger file: %w", err)
		}
	}
	return first
}
