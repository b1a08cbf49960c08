package journal

import (
	"rebound/internal/journal/envelope"
	"rebound/internal/journal/vfs"
)

// Small files of the journal are JSON in an envelope.
var (
	manifestMagic = [8]byte{'R', 'B', 'M', 'A', 'N', 0, 0, 1}
	rollbackMagic = [8]byte{'R', 'B', 'R', 'O', 'L', 'L', 0, 1}
)

const envelopeHead = envelope.HeadSize

func sealEnvelope(magic [8]byte, v any) ([]byte, error) { return envelope.Seal(magic, v) }

func openEnvelope(magic [8]byte, b []byte, v any) error { return envelope.Open(magic, b, v) }

func writeFile(fsys vfs.FS, name string, content []byte) error {
	return envelope.Write(fsys, name, content)
}

func readFile(fsys vfs.FS, name string) ([]byte, error) { return envelope.Read(fsys, name) }
