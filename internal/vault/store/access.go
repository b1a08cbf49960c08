package store

import (
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"rebound/internal/vault/rest"
)

// Session is a log-in that stands. Its secret is kept as a hash only.
type Session struct {
	ID      string    `json:"id"`
	User    string    `json:"user"`
	Channel string    `json:"channel"`
	From    string    `json:"from"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"`
}

// InsertUser adds a user with the hash of the password; ErrExists when the
// name is taken.
func (t *Tx) InsertUser(u rest.User, hash string) error {
	doc, err := docOf(u)
	if err != nil {
		return err
	}
	n, err := t.exec("INSERT INTO users(name, hash, doc) VALUES(?, ?, ?) ON CONFLICT DO NOTHING", u.Name, hash, doc)
	return inserted(n, err)
}

// PutUser replaces what is known of a user; the password stays.
func (t *Tx) PutUser(u rest.User) error {
	doc, err := docOf(u)
	if err != nil {
		return err
	}
	return t.must1(t.exec("UPDATE users SET doc = ? WHERE name = ?", doc, u.Name))
}

// SetPassword replaces the hash of a user's password.
func (t *Tx) SetPassword(name, hash string) error {
	return t.must1(t.exec("UPDATE users SET hash = ? WHERE name = ?", hash, name))
}

// User reads a user.
func (t *Tx) User(name string) (rest.User, error) {
	return readDoc[rest.User](t, "SELECT doc FROM users WHERE name = ?", name)
}

// PasswordHash reads the hash of a user's password.
func (t *Tx) PasswordHash(name string) (string, error) {
	var hash string
	err := t.tx.QueryRowContext(t.ctx, "SELECT hash FROM users WHERE name = ?", name).Scan(&hash)
	if errors.Is(err, sql.ErrNoRows) {
		return "", ErrNotFound
	}
	return hash, err
}

// Users lists users by name.
func (t *Tx) Users() ([]rest.User, error) {
	return readDocs[rest.User](t, "SELECT doc FROM users ORDER BY name")
}

// DeleteUser removes a user with all sessions and tokens.
func (t *Tx) DeleteUser(name string) error {
	if _, err := t.exec("DELETE FROM tokens WHERE doc ->> '$.user' = ?", name); err != nil {
		return err
	}
	return t.must1(t.exec("DELETE FROM users WHERE name = ?", name))
}

// InsertSession adds a session; only the hash of its secret is kept.
func (t *Tx) InsertSession(s Session, secret string) error {
	doc, err := docOf(s)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(secret))
	_, err = t.exec("INSERT INTO sessions(id, hash, user, doc) VALUES(?, ?, ?, ?)", s.ID, sum[:], s.User, doc)
	return err
}

// SessionOf finds the session of a secret.
func (t *Tx) SessionOf(secret string) (Session, error) {
	sum := sha256.Sum256([]byte(secret))
	return readDoc[Session](t, "SELECT doc FROM sessions WHERE hash = ?", sum[:])
}

// PutSession replaces a session; one that is gone is no error.
func (t *Tx) PutSession(s Session) error {
	doc, err := docOf(s)
	if err != nil {
		return err
	}
	_, err = t.exec("UPDATE sessions SET doc = ? WHERE id = ?", doc, s.ID)
	return err
}

// DeleteSession ends a session; one that is gone is no error.
func (t *Tx) DeleteSession(id string) error {
	_, err := t.exec("DELETE FROM sessions WHERE id = ?", id)
	return err
}

// DeleteSessions ends a user's sessions but for one.
func (t *Tx) DeleteSessions(user, but string) error {
	_, err := t.exec("DELETE FROM sessions WHERE user = ? AND id <> ?", user, but)
	return err
}

// PruneSessions removes the sessions that began before a time or were used
// last before another one.
func (t *Tx) PruneSessions(began, used time.Time) error {
	all, err := readDocs[Session](t, "SELECT doc FROM sessions")
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Created.Before(began) || s.Used.Before(used) {
			if err := t.DeleteSession(s.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// InsertToken adds a token; only the hash of its secret is kept.
func (t *Tx) InsertToken(tok rest.Token, secret string) error {
	doc, err := docOf(tok)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(secret))
	_, err = t.exec("INSERT INTO tokens(id, hash, doc) VALUES(?, ?, ?)", tok.ID, sum[:], doc)
	return err
}

// PutToken replaces a token; its secret stays.
func (t *Tx) PutToken(tok rest.Token) error {
	doc, err := docOf(tok)
	if err != nil {
		return err
	}
	return t.must1(t.exec("UPDATE tokens SET doc = ? WHERE id = ?", doc, tok.ID))
}

// TokenOf finds the token of a secret that has not expired.
func (t *Tx) TokenOf(secret string, now time.Time) (rest.Token, error) {
	sum := sha256.Sum256([]byte(secret))
	tok, err := readDoc[rest.Token](t, "SELECT doc FROM tokens WHERE hash = ?", sum[:])
	if err == nil && !tok.Expires.IsZero() && !now.Before(tok.Expires) {
		return rest.Token{}, ErrNotFound
	}
	return tok, err
}

// Token reads a token by its id.
func (t *Tx) Token(id string) (rest.Token, error) {
	return readDoc[rest.Token](t, "SELECT doc FROM tokens WHERE id = ?", id)
}

// Tokens lists tokens.
func (t *Tx) Tokens() ([]rest.Token, error) {
	return readDocs[rest.Token](t, "SELECT doc FROM tokens ORDER BY id")
}

// DeleteToken ends a token.
func (t *Tx) DeleteToken(id string) error {
	return t.must1(t.exec("DELETE FROM tokens WHERE id = ?", id))
}

// CountAttempt counts a wrong passphrase for an enrolment that is announced.
func (t *Tx) CountAttempt(role, name string) error {
	_, err := t.exec("UPDATE enrollments SET attempts = attempts + 1 WHERE role = ? AND name = ?", role, name)
	return err
}

// Attempts reads how many wrong passphrases were tried for an enrolment.
func (t *Tx) Attempts(role, name string) (int, error) {
	var n int
	err := t.tx.QueryRowContext(t.ctx, "SELECT attempts FROM enrollments WHERE role = ? AND name = ?", role, name).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("read attempts: %w", err)
	}
	return n, nil
}
