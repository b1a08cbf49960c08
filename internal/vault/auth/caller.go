package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// How long a session lasts: without a request, and in any case.
const (
	SessionIdle = 30 * time.Minute
	SessionLife = 12 * time.Hour
	// UsedEvery is how exactly the last use of a session or token is kept.
	UsedEvery = time.Minute
)

// Channel is by which way a caller came; the audit log keeps it.
type Channel string

// The channels.
const (
	// Portal is a session's cookie.
	Portal Channel = "portal"
	// CLI is the command line, by its own word.
	CLI Channel = "cli"
	// Token is any other program.
	Token Channel = "token"
	// Control are gateways and agents, with certificates.
	Control Channel = "control"
)

// Caller is who sends a request.
type Caller struct {
	// Name is the user's, or the service token's: no two of them are the
	// same. Jobs and the audit log name their caller by it.
	Name string
	// User is empty for a service token.
	User string
	// Role is the least of the user's and the token's.
	Role    Role
	Channel Channel
	// Credential is the id of the session or token.
	Credential string
	// Session is set when the credential is a session.
	Session bool
	// Seal is derived from the credential's secret; it is kept nowhere.
	Seal [32]byte
}

// Another reports whether c is another person than the one by whom something
// was started, as an approval demands.
func (c Caller) Another(startedBy string) bool { return c.Name != "" && c.Name != startedBy }

// NewSecret returns 130 random bits behind a prefix that tells people and
// scanners what it is.
func NewSecret(prefix string) string { return prefix + rand.Text() }

// CSRFOf derives what the CSRF header of a session must say from the secret in
// its cookie: another origin can make a browser send the cookie, but not read it.
func CSRFOf(secret string) string {
	sum := sha256.Sum256([]byte("rebound csrf\x00" + secret))
	return hex.EncodeToString(sum[:16])
}

// SealOf derives the key under which answers to this credential are kept.
func SealOf(secret string) [32]byte { return sha256.Sum256([]byte("rebound answers\x00" + secret)) }
