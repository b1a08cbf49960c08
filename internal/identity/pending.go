package identity

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// pendingFile holds the key and the request of an enrolment under way.
const pendingFile = "pending.pem"

// PendingRequest returns the key and the signing request of an enrolment that
// was cut short, or makes them and keeps them in dir, durably, first. The vault
// answers the same request again; another one would need another passphrase.
func PendingRequest(dir, name string) (keyPEM, csrPEM []byte, err error) {
	path := filepath.Join(dir, pendingFile)
	both, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makePending(path, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read pending enrolment: %w", err)
	}
	return splitPending(both)
}

func makePending(path, name string) (keyPEM, csrPEM []byte, err error) {
	keyPEM, csrPEM, err = NewRequest(name)
	if err != nil {
		return nil, nil, err
	}
	both := append(append([]byte(nil), keyPEM...), csrPEM...)
	if err := renameio.WriteFile(path, both, 0o600); err != nil {
		return nil, nil, fmt.Errorf("keep pending enrolment: %w", err)
	}
	return keyPEM, csrPEM, syncDir(filepath.Dir(path))
}

// ClearPending forgets the pending enrolment once its bundle is saved.
func ClearPending(dir string) error {
	if err := os.Remove(filepath.Join(dir, pendingFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget pending enrolment: %w", err)
	}
	return syncDir(dir)
}

// splitPending takes the two PEM blocks apart as they were written, byte by
// byte: the vault knows the request by its text.
func splitPending(both []byte) (keyPEM, csrPEM []byte, err error) {
	block, rest := pem.Decode(both)
	if block == nil || len(rest) == 0 {
		return nil, nil, errors.New("read pending enrolment: it is not whole")
	}
	return both[:len(both)-len(rest)], rest, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}
