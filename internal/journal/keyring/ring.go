package keyring

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"rebound/internal/journal/envelope"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// The two copies of a directory's keys. One is written after the other, so that
// one of them is whole at any moment.
const (
	fileName = "keys"
	copyName = "keys.copy"
	wrapUse  = "data key 1"
)

var magic = [8]byte{'R', 'B', 'K', 'E', 'Y', 'S', 0, 1}

// keysFile is what the file holds.
type keysFile struct {
	// Keys in order of their creation; the last one encrypts.
	Keys []wrappedKey `json:"keys"`
}

// wrappedKey is one data key.
type wrappedKey struct {
	ID        string    `json:"id"`
	WrappedBy string    `json:"wrappedBy"`
	Sealed    []byte    `json:"sealed"`
	Created   time.Time `json:"created"`
}

// Info says what a directory's keys are, without any key.
type Info struct {
	// Key is the data key that encrypts, WrappedBy the wrapping key that it
	// takes to read it.
	Key       string `json:"key"`
	WrappedBy string `json:"wrappedBy"`
	Keys      int    `json:"keys"`
}

// Ring holds the data keys of one directory. A nil Ring holds none: nothing is
// encrypted, and nothing encrypted can be read.
type Ring struct {
	current *segment.Key
	keys    map[segment.KeyID]*segment.Key
}

// Current returns the key to encrypt with; nil: nothing is to be encrypted.
func (r *Ring) Current() *segment.Key {
	if r == nil {
		return nil
	}
	return r.current
}

// Key returns the key with an ID; nil for the zero ID, which stands for what is
// not encrypted. A key that is not there is a KeyMissing problem.
func (r *Ring) Key(id segment.KeyID) (*segment.Key, error) {
	if id.IsZero() {
		return nil, nil
	}
	if r != nil && r.keys[id] != nil {
		return r.keys[id], nil
	}
	return nil, problem.Wrap(segment.ErrSealed, problem.KeyMissing, "it is encrypted with data key %s, which the keys file does not hold", id)
}

// Open reads a directory's keys. With a wrapping key, a directory without keys
// gets one; keys that another wrapping key has wrapped are wrapped anew with the
// first one. Neither is done when readOnly.
func Open(fsys vfs.FS, dir string, w *Wrapping, readOnly bool) (*Ring, error) {
	f, whole, err := load(fsys, dir)
	if err != nil {
		return nil, err
	}
	if len(f.Keys) == 0 {
		if w == nil || readOnly {
			return nil, nil
		}
		return create(fsys, dir, w)
	}
	if w == nil {
		return nil, problem.New(problem.KeyMissing, "%s is encrypted; its keys are wrapped with key %s", dir, f.Keys[len(f.Keys)-1].WrappedBy)
	}
	r, rotate, err := unwrap(&f, dir, w)
	if err != nil {
		return nil, err
	}
	if readOnly || (whole && !rotate) {
		return r, nil
	}
	return r, r.store(fsys, dir, &f, w)
}

// Look says what a directory's keys are; the zero Info if it has none.
func Look(fsys vfs.FS, dir string) (Info, error) {
	f, _, err := load(fsys, dir)
	if err != nil || len(f.Keys) == 0 {
		return Info{}, err
	}
	last := f.Keys[len(f.Keys)-1]
	return Info{Key: last.ID, WrappedBy: last.WrappedBy, Keys: len(f.Keys)}, nil
}

// load reads the keys from whichever copy is whole; whole reports whether both
// are and hold the same.
func load(fsys vfs.FS, dir string) (f keysFile, whole bool, err error) {
	a, aerr := readOne(fsys, filepath.Join(dir, fileName))
	b, berr := readOne(fsys, filepath.Join(dir, copyName))
	switch {
	case aerr == nil && berr == nil:
		return a, same(&a, &b), nil
	case aerr == nil:
		return a, false, nil
	case berr == nil:
		return b, false, nil
	case errors.Is(aerr, fs.ErrNotExist) && errors.Is(berr, fs.ErrNotExist):
		return keysFile{}, true, nil
	}
	return keysFile{}, false, problem.Wrap(errors.Join(aerr, berr), problem.JournalDamaged, "neither copy of the keys in %s can be read", dir)
}

func readOne(fsys vfs.FS, path string) (f keysFile, err error) {
	b, err := envelope.Read(fsys, path)
	if err != nil {
		return f, err
	}
	if err := envelope.Open(magic, b, &f); err != nil {
		return f, fmt.Errorf("read %s: %w", path, err)
	}
	if len(f.Keys) == 0 {
		return f, fmt.Errorf("read %s: %w: no keys", path, segment.ErrDamaged)
	}
	return f, nil
}

func same(a, b *keysFile) bool {
	if len(a.Keys) != len(b.Keys) {
		return false
	}
	for i := range a.Keys {
		if a.Keys[i].ID != b.Keys[i].ID || a.Keys[i].WrappedBy != b.Keys[i].WrappedBy {
			return false
		}
	}
	return true
}

// unwrap opens all keys; rotate reports whether one is not wrapped with the
// first wrapping key.
func unwrap(f *keysFile, dir string, w *Wrapping) (r *Ring, rotate bool, err error) {
	r = &Ring{keys: map[segment.KeyID]*segment.Key{}}
	for _, k := range f.Keys {
		var by *segment.Key
		for _, have := range w.keys {
			if have.ID().String() == k.WrappedBy {
				by = have
			}
		}
		if by == nil {
			return nil, false, problem.New(problem.KeyWrong, "the keys of %s are wrapped with key %s; at hand is %v", dir, k.WrappedBy, w.IDs())
		}
		secret, err := by.OpenBytes(k.Sealed, wrapUse)
		if err != nil {
			return nil, false, problem.Wrap(err, problem.KeyWrong, "data key %s of %s cannot be unwrapped", k.ID, dir)
		}
		key, err := segment.NewKey(secret)
		if err != nil {
			return nil, false, fmt.Errorf("read keys of %s: %w", dir, err)
		}
		r.keys[key.ID()], r.current = key, key
		rotate = rotate || by != w.keys[0]
	}
	return r, rotate, nil
}

// create makes the first data key of a directory.
func create(fsys vfs.FS, dir string, w *Wrapping) (*Ring, error) {
	secret := make([]byte, segment.KeySize)
	_, _ = rand.Read(secret) // never fails
	key, err := segment.NewKey(secret)
	if err != nil {
		return nil, err
	}
	sealed, err := w.keys[0].SealBytes(nil, secret, wrapUse)
	if err != nil {
		return nil, err
	}
	f := keysFile{Keys: []wrappedKey{{ID: key.ID().String(), WrappedBy: w.keys[0].ID().String(), Sealed: sealed, Created: time.Now().UTC()}}}
	if err := write(fsys, dir, &f); err != nil {
		return nil, err
	}
	return &Ring{current: key, keys: map[segment.KeyID]*segment.Key{key.ID(): key}}, nil
}

// store wraps all keys with the first wrapping key and writes both copies.
func (r *Ring) store(fsys vfs.FS, dir string, f *keysFile, w *Wrapping) error {
	out := keysFile{Keys: append([]wrappedKey(nil), f.Keys...)}
	for i := range out.Keys {
		k := &out.Keys[i]
		by := w.keys[0]
		if k.WrappedBy == by.ID().String() {
			continue
		}
		secret, err := w.unwrapOne(k)
		if err != nil {
			return err
		}
		if k.Sealed, err = by.SealBytes(nil, secret, wrapUse); err != nil {
			return err
		}
		k.WrappedBy = by.ID().String()
	}
	return write(fsys, dir, &out)
}

func (w *Wrapping) unwrapOne(k *wrappedKey) ([]byte, error) {
	for _, have := range w.keys {
		if have.ID().String() == k.WrappedBy {
			return have.OpenBytes(k.Sealed, wrapUse)
		}
	}
	return nil, segment.ErrSealed
}

func write(fsys vfs.FS, dir string, f *keysFile) error {
	b, err := envelope.Seal(magic, f)
	if err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	for _, name := range []string{fileName, copyName} {
		if err := envelope.Write(fsys, filepath.Join(dir, name), b); err != nil {
			return fmt.Errorf("write keys: %w", err)
		}
	}
	return nil
}
