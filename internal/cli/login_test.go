package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rebound/internal/vault/rest"
)

func TestLogin(t *testing.T) {
	l := newLab(t)
	path := os.Getenv(envConfig)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("the profile's mode is %v", st.Mode())
	}
	var p profile
	if err := json.Unmarshal([]byte(mustRead(t, path)), &p); err != nil {
		t.Fatal(err)
	}
	if p.Vault != l.addr || p.Token == "" || p.CA == "" || p.ID != read[rest.Status](t, "status").Vault {
		t.Errorf("profile %+v", p)
	}
	before := mustRead(t, path)

	// What does not work is not stored.
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("rbt_wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, exitNotAllowed, "NotAuthenticated", "login", l.addr, "--ca", l.ca, "--token-file", bad)
	refused(t, exitUsage, "InvalidRequest", "login", l.addr, "--ca", l.ca)
	refused(t, exitUsage, "InvalidRequest", "login", l.addr, "--ca", filepath.Join(t.TempDir(), "none"), "--token-file", bad)
	refused(t, exitUnreachable, "VaultUnreachable", "login", "127.0.0.1:1", "--ca", l.ca, "--token-file", bad)
	if mustRead(t, path) != before {
		t.Error("a failed login changed the profile")
	}

	// Flags and environment win over the profile; a vault that the profile
	// does not pin is not trusted.
	refused(t, exitNotAllowed, "NotAuthenticated", "status", "--token", "rbt_wrong")
	refused(t, exitUnreachable, "VaultUnreachable", "status", "--vault", "127.0.0.1:1")
	t.Setenv(envToken, p.Token)
	t.Setenv(envVault, "https://"+l.addr)
	t.Setenv(envConfig, filepath.Join(t.TempDir(), "none"))
	if r := run(t, "status"); r.code == exitOK {
		t.Error("an unknown certificate was trusted")
	}
	t.Setenv(envCA, l.ca)
	want(t, exitOK, "status")
}

func TestRolesAndTokens(t *testing.T) {
	newLab(t)
	k := read[rest.TokenSecret](t, "token", "create", "--name", "ci", "--role", "reader", "--days", "3")
	want(t, exitOK, "status", "--token", k.Secret)
	refused(t, exitNotAllowed, "PermissionDenied", "site", "create", "moon", "--token", k.Secret)
	if list := read[[]rest.Token](t, "token", "list"); len(list) != 2 {
		t.Errorf("tokens: %+v", list)
	}
	want(t, exitOK, "token", "delete", k.ID, "--yes")
	refused(t, exitNotAllowed, "NotAuthenticated", "status", "--token", k.Secret)
	rows := read[[]rest.AuditRow](t, "audit", "list", "--who", "first", "--limit", "1")
	if len(rows) != 1 || rows[0].Operation != "delete-token" || rows[0].Channel != "cli" || rows[0].Object != "token/"+k.ID {
		t.Errorf("newest row of 'first': %+v", rows)
	}
	rows = read[[]rest.AuditRow](t, "audit", "list", "--outcome", "refused")
	if len(rows) != 2 || rows[0].Who != "ci" || rows[0].Code != "PermissionDenied" || rows[1].Who != "" || rows[1].Code != "NotAuthenticated" {
		t.Errorf("refused: %+v", rows)
	}
	check := read[rest.AuditCheck](t, "audit", "verify")
	if !check.Intact || check.Rows == 0 {
		t.Errorf("check: %+v", check)
	}
	want(t, exitOK, "audit", "verify", "--since", fmt.Sprintf("%d:%s", check.Seq, check.Hash))
	refused(t, exitRefused, "CheckFailed", "audit", "verify", "--since", fmt.Sprintf("%d:%s", check.Seq, strings.Repeat("0", 64)))
}

// TestUsersLogIn: a user logs in by password, works with a token of his own,
// and is shut out at once.
func TestUsersLogIn(t *testing.T) {
	l := newLab(t)
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pass, next := file("pass", "correct horse battery"), file("next", "another horse battery")
	refused(t, exitUsage, "WeakPassword", "user", "create", "alice", "--role", "operator", "--password-file", file("weak", "short"))
	want(t, exitOK, "user", "create", "alice", "--role", "operator", "--password-file", pass)
	refused(t, exitRefused, "NameTaken", "user", "create", "alice", "--role", "reader", "--password-file", pass)
	t.Setenv(envCA, l.ca)
	var first profile
	if err := json.Unmarshal([]byte(mustRead(t, os.Getenv(envConfig))), &first); err != nil {
		t.Fatal(err)
	}
	owner := first.Token
	t.Setenv(envToken, "")
	t.Setenv(envConfig, filepath.Join(t.TempDir(), "alice"))
	refused(t, exitNotAllowed, "NotAuthenticated", "login", l.addr, "--user", "alice", "--password-file", next)
	want(t, exitOK, "login", l.addr, "--user", "alice", "--password-file", pass)
	want(t, exitOK, "status")
	refused(t, exitNotAllowed, "PermissionDenied", "site", "create", "moon")
	refused(t, exitNotAllowed, "PermissionDenied", "user", "list")
	own := read[[]rest.Token](t, "token", "list")
	if len(own) != 1 || own[0].User != "alice" || own[0].Expires.IsZero() {
		t.Errorf("alice's tokens: %+v", own)
	}
	want(t, exitOK, "user", "password", "alice", "--current-file", pass, "--password-file", next)
	want(t, exitOK, "user", "update", "alice", "--disable", "--token", owner)
	refused(t, exitNotAllowed, "NotAuthenticated", "status")
	want(t, exitOK, "user", "delete", "alice", "--yes", "--token", owner)
}
