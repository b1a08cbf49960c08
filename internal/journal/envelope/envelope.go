// Package envelope is the form of the small files of journals and spools: JSON
// between a magic and a checksum, replaced as a whole or not at all. It belongs
// to the packages that keep such files.
package envelope

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"rebound/internal/journal/vfs"
	"rebound/internal/segment"
)

const (
	// HeadSize is how many bytes precede the JSON: magic (8; the last byte is
	// the version) and length (8). A CRC32C of all before (4) follows it.
	HeadSize = 16
	maxSize  = 256 << 20
)

// Seal encodes v.
func Seal(magic [8]byte, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	b := append([]byte(nil), magic[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, segment.Checksum(b)), nil
}

// Open checks b and decodes it into v.
func Open(magic [8]byte, b []byte, v any) error {
	if len(b) < HeadSize+4 || [7]byte(b) != [7]byte(magic[:7]) {
		return fmt.Errorf("%w: %d bytes without the magic", segment.ErrDamaged, len(b))
	}
	sum := len(b) - 4
	if binary.LittleEndian.Uint32(b[sum:]) != segment.Checksum(b[:sum]) ||
		binary.LittleEndian.Uint64(b[8:]) != uint64(sum-HeadSize) {
		return fmt.Errorf("%w: checksum or length", segment.ErrDamaged)
	}
	if b[7] != magic[7] {
		return fmt.Errorf("%w: %d, want %d", segment.ErrVersion, b[7], magic[7])
	}
	if err := json.Unmarshal(b[HeadSize:sum], v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// Write replaces a file: temporary file, sync, rename, sync of the directory.
func Write(fsys vfs.FS, name string, content []byte) error {
	temp := name + ".tmp"
	_ = fsys.Remove(temp) // of a crash
	f, err := fsys.Create(temp)
	if err != nil {
		return fmt.Errorf("create %s: %w", temp, err)
	}
	if _, err = f.WriteAt(content, 0); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(temp, name)
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(name))
	}
	if err != nil {
		_ = fsys.Remove(temp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Read reads a whole small file.
func Read(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name, true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > maxSize {
		return nil, fmt.Errorf("read %s: %w: %d bytes", name, segment.ErrDamaged, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), b); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}
