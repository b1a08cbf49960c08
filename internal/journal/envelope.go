package journal

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"rebound/internal/journal/vfs"
	"rebound/internal/segment"
)

// Small files of the journal are JSON in an envelope:
// magic (8, the last byte is the version), length (8), JSON, CRC32C of all
// before (4).
var (
	manifestMagic = [8]byte{'R', 'B', 'M', 'A', 'N', 0, 0, 1}
	rollbackMagic = [8]byte{'R', 'B', 'R', 'O', 'L', 'L', 0, 1}
)

const (
	envelopeHead = 16
	maxEnvelope  = 256 << 20
)

// sealEnvelope encodes v.
func sealEnvelope(magic [8]byte, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	b := append([]byte(nil), magic[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, segment.Checksum(b)), nil
}

// openEnvelope checks b and decodes it into v.
func openEnvelope(magic [8]byte, b []byte, v any) error {
	if len(b) < envelopeHead+4 || [7]byte(b) != [7]byte(magic[:7]) {
		return fmt.Errorf("%w: %d bytes without the magic", segment.ErrDamaged, len(b))
	}
	sum := len(b) - 4
	if binary.LittleEndian.Uint32(b[sum:]) != segment.Checksum(b[:sum]) ||
		binary.LittleEndian.Uint64(b[8:]) != uint64(sum-envelopeHead) {
		return fmt.Errorf("%w: checksum or length", segment.ErrDamaged)
	}
	if b[7] != magic[7] {
		return fmt.Errorf("%w: %d, want %d", segment.ErrVersion, b[7], magic[7])
	}
	if err := json.Unmarshal(b[envelopeHead:sum], v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// writeFile replaces name: temporary file, sync, rename, sync of the directory.
func writeFile(fsys vfs.FS, name string, content []byte) error {
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

// readFile reads a whole small file.
func readFile(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name, true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > maxEnvelope {
		return nil, fmt.Errorf("read %s: %w: %d bytes", name, segment.ErrDamaged, size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), b); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}
