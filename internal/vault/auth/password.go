package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"rebound/internal/problem"
)

// cost is how dear one guess is. It is kept with each hash, so that it can grow
// without anybody having to set a password anew.
type cost struct {
	time, memoryKiB uint32
	threads         uint8
}

const (
	// minPassword is in characters: NIST SP 800-63B asks for 8 at least, and
	// for more where a password is all there is.
	minPassword = 12
	// maxPassword, in bytes, bounds the work that a guess makes.
	maxPassword = 1024
	saltBytes   = 16
	keyBytes    = 32
	// What a stored hash may ask for at most: a damaged or planted row must
	// not eat the machine.
	maxTime, maxMemoryKiB, maxThreads = 64, 1 << 20, 64
)

// presentCost is the second recommended option of RFC 9106, section 4: 64 MiB,
// three passes, four lanes.
func presentCost() cost { return cost{time: 3, memoryKiB: 64 << 10, threads: 4} }

// CheckPassword refuses a password that is too easy to guess for a user.
func CheckPassword(name, password string) error {
	switch {
	case utf8.RuneCountInString(password) < minPassword:
		return problem.New(problem.WeakPassword, "it has fewer than %d characters", minPassword)
	case len(password) > maxPassword:
		return problem.New(problem.WeakPassword, "it has more than %d bytes", maxPassword)
	case strings.EqualFold(password, name) || strings.Count(password, password[:1]) == len(password):
		return problem.New(problem.WeakPassword, "it is the user's name, or one character only")
	}
	return nil
}

// HashPassword returns the argon2id hash of a password, with a salt of its own
// and its parameters, in the form "$argon2id$v=19$m=65536,t=3,p=4$SALT$KEY".
func HashPassword(password string) string { return hashWith(presentCost(), password) }

func hashWith(c cost, password string) string {
	salt := make([]byte, saltBytes)
	rand.Read(salt) //nolint:errcheck // never fails (crypto/rand)
	key := argon2.IDKey([]byte(password), salt, c.time, c.memoryKiB, c.threads, keyBytes)
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memoryKiB, c.time, c.threads, enc.EncodeToString(salt), enc.EncodeToString(key))
}

// ComparePassword reports whether a password is the one of a hash, and whether
// the hash should be made anew because the cost has grown since. It takes the
// same time whatever the password; a hash that cannot be read is an error.
func ComparePassword(hash, password string) (right, stale bool, err error) {
	c, salt, key, err := parseHash(hash)
	if err != nil {
		return false, false, fmt.Errorf("read password hash: %w", err)
	}
	if len(password) > maxPassword {
		password = ""
	}
	got := argon2.IDKey([]byte(password), salt, c.time, c.memoryKiB, c.threads, uint32(len(key)))
	return subtle.ConstantTimeCompare(got, key) == 1, c != presentCost(), nil
}

func parseHash(hash string) (c cost, salt, key []byte, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return c, nil, nil, errors.New("it is no argon2id hash")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return c, nil, nil, fmt.Errorf("unknown version %q", parts[2])
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memoryKiB, &c.time, &c.threads); err != nil {
		return c, nil, nil, fmt.Errorf("parameters %q: %w", parts[3], err)
	}
	if c.time < 1 || c.time > maxTime || c.memoryKiB < 8*uint32(c.threads) || c.memoryKiB > maxMemoryKiB || c.threads < 1 || c.threads > maxThreads {
		return c, nil, nil, fmt.Errorf("parameters %q are out of range", parts[3])
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return c, nil, nil, fmt.Errorf("salt: %w", err)
	}
	if key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil {
		return c, nil, nil, fmt.Errorf("key: %w", err)
	}
	if len(salt) < 8 || len(key) < 16 || len(key) > 64 {
		return c, nil, nil, errors.New("salt or key have no fitting length")
	}
	return c, salt, key, nil
}
