// Package keyring keeps the keys of what is encrypted at rest. Each journal and
// each spool has data keys of its own, made at random; they lie beside the data,
// wrapped: encrypted with a key that the operator keeps elsewhere, in a file or
// an environment variable.
//
// It promises that a directory's keys file is there before anything is
// encrypted with a key of it, that there are two copies of it, and that a missing
// or wrong wrapping key changes nothing. Packages journal and spool call it, and
// the command line for its wrapping keys.
package keyring

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"rebound/internal/problem"
	"rebound/internal/segment"
)

// EnvVar is the environment variable that may hold the wrapping keys.
const EnvVar = "REBOUND_KEY"

// maxKeyFile bounds a file of wrapping keys, in bytes.
const maxKeyFile = 64 << 10

// Wrapping are the operator's keys. The first one wraps; the others only
// unwrap what was wrapped before a rotation. A nil *Wrapping holds none.
type Wrapping struct{ keys []*segment.Key }

// IDs names the keys, the one that wraps first.
func (w *Wrapping) IDs() []segment.KeyID {
	if w == nil {
		return nil
	}
	out := make([]segment.KeyID, len(w.keys))
	for i, k := range w.keys {
		out[i] = k.ID()
	}
	return out
}

// find returns the key with an ID, or nil.
func (w *Wrapping) find(id segment.KeyID) *segment.Key {
	if w == nil {
		return nil
	}
	for _, k := range w.keys {
		if k.ID() == id {
			return k
		}
	}
	return nil
}

// Parse reads wrapping keys: a line each, 64 hexadecimal digits. Empty lines and
// those that begin with # are skipped. The text is never part of an error.
func Parse(text []byte) (*Wrapping, error) {
	w := &Wrapping{}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		secret, err := hex.DecodeString(line)
		if err != nil || len(secret) != segment.KeySize {
			return nil, problem.New(problem.KeyNotUsable, "line %d of the keys is not %d hexadecimal digits", i+1, 2*segment.KeySize)
		}
		if bytes.Equal(secret, make([]byte, segment.KeySize)) {
			return nil, problem.New(problem.KeyNotUsable, "line %d of the keys is all zeroes", i+1)
		}
		k, err := segment.NewKey(secret)
		if err != nil {
			return nil, err
		}
		if w.find(k.ID()) != nil {
			return nil, problem.New(problem.KeyNotUsable, "line %d of the keys is there twice", i+1)
		}
		w.keys = append(w.keys, k)
	}
	if len(w.keys) == 0 {
		return nil, problem.New(problem.KeyNotUsable, "there is no key in what should hold one")
	}
	return w, nil
}

// Load returns the wrapping keys of a file, or, without a path, those of the
// environment variable EnvVar; nil when there is neither. A file that others can
// read is refused.
func Load(path string, getenv func(string) string) (*Wrapping, error) {
	if path == "" {
		text := getenv(EnvVar)
		if text == "" {
			return nil, nil
		}
		w, err := Parse([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("read $%s: %w", EnvVar, err)
		}
		return w, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, problem.Wrap(err, problem.KeyNotUsable, "the key file %s cannot be read", path)
	}
	if info.Mode().IsRegular() && (info.Mode().Perm()&0o077 != 0 || info.Size() > maxKeyFile) {
		return nil, problem.New(problem.KeyNotUsable, "the key file %s has mode %04o and %d bytes; it must be small and closed to others (chmod 600)", path, info.Mode().Perm(), info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.Wrap(err, problem.KeyNotUsable, "the key file %s cannot be read", path)
	}
	w, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return w, nil
}
