package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
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
	rows := read[[]rest.AuditRow](t, "audit", "list", "--limit", "1")
	if len(rows) != 1 || rows[0].Method != "DELETE" || rows[0].Who != "first" {
		t.Errorf("newest audit row: %+v", rows)
	}
}
