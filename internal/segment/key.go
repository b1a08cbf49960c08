package segment

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// What is encrypted is encrypted with AES-256-GCM, under a key that is used for
// one thing only: HKDF-SHA256 makes it from a Key and 32 random bytes, the
// salt, which are drawn anew for every frame and every list. Within a frame the
// nonce is the block's number. So a nonce cannot come twice under one key,
// whatever a crash, a copied volume or a volume that was set back does: nothing
// is counted, and nothing has to be remembered. FORMAT.md says more.
const (
	// KeySize is the length of a key, in bytes.
	KeySize = 32

	saltSize   = 32
	tagSize    = 16
	sealHeader = saltSize + tagSize
)

// ErrSealed means that content is encrypted and the key is not at hand, or not
// the one that it was encrypted with.
var ErrSealed = errors.New("segment: encrypted, and the key is missing")

// KeyID names a key without telling it. The zero KeyID means: not encrypted.
type KeyID [8]byte

// IsZero reports whether the ID names no key.
func (id KeyID) IsZero() bool { return id == KeyID{} }

// String is the ID in hexadecimal, or "none".
func (id KeyID) String() string {
	if id.IsZero() {
		return "none"
	}
	return hex.EncodeToString(id[:])
}

// Key encrypts what rests in a journal or a spool. It may be used concurrently.
type Key struct {
	secret []byte
	id     KeyID
}

// NewKey makes a Key of KeySize secret bytes.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) != KeySize {
		return nil, fmt.Errorf("make key: %d bytes, want %d", len(secret), KeySize)
	}
	k := &Key{secret: append([]byte(nil), secret...)}
	id, err := hkdf.Key(sha256.New, k.secret, nil, "rebound key id", len(k.id))
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	k.id = KeyID(id)
	if k.id.IsZero() { // it would read as "not encrypted"
		k.id[0] = 1
	}
	return k, nil
}

// ID returns the name of the key.
func (k *Key) ID() KeyID { return k.id }

// derive makes the cipher of one use.
func (k *Key) derive(salt []byte, use string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, k.secret, salt, use, KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return cipher.NewGCM(block)
}

// newSalt draws a salt. crypto/rand never fails.
func newSalt() (salt [saltSize]byte) {
	_, _ = rand.Read(salt[:])
	return salt
}

// SealBytes appends a short text, encrypted for a use, to dst: salt (32),
// content, tag (16).
func (k *Key) SealBytes(dst, plain []byte, use string) ([]byte, error) {
	return k.sealBytes(dst, plain, use, newSalt())
}

func (k *Key) sealBytes(dst, plain []byte, use string, salt [saltSize]byte) ([]byte, error) {
	aead, err := k.derive(salt[:], "rebound "+use)
	if err != nil {
		return nil, err
	}
	return aead.Seal(append(dst, salt[:]...), make([]byte, aead.NonceSize()), plain, nil), nil
}

// OpenBytes returns what SealBytes was given. Another key, another use and
// changed bytes are ErrSealed.
func (k *Key) OpenBytes(sealed []byte, use string) ([]byte, error) {
	if len(sealed) < sealHeader {
		return nil, fmt.Errorf("%w: %d encrypted bytes", ErrShort, len(sealed))
	}
	aead, err := k.derive(sealed[:saltSize], "rebound "+use)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed[saltSize:], nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return plain, nil
}
