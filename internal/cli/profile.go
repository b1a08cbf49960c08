package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// The environment of the operator's commands; flags win over it.
const (
	envConfig = "REBOUND_CONFIG" // the profile's file
	envVault  = "REBOUND_VAULT"  // host:port
	envToken  = "REBOUND_TOKEN"
	envCA     = "REBOUND_CA" // a file
)

// profile is what 'rebound login' remembers. The file holds a secret: 0600.
type profile struct {
	Vault string `json:"vault"` // host:port
	ID    string `json:"vaultId"`
	Token string `json:"token"`
	CA    string `json:"ca,omitempty"` // PEM; empty: the system's authorities
}

// profilePath is $REBOUND_CONFIG, or rebound/profile.json in the user's
// configuration directory.
func profilePath() (string, error) {
	if p := os.Getenv(envConfig); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usageError{fmt.Errorf("find the user's configuration directory: %w; set $%s", err, envConfig)}
	}
	return filepath.Join(dir, "rebound", "profile.json"), nil
}

// loadProfile returns an empty profile when nobody has logged in.
func loadProfile() (profile, error) {
	var p profile
	path, err := profilePath()
	if err != nil {
		return p, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read profile: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, usageError{fmt.Errorf("profile %s: %w; log in again", path, err)}
	}
	return p, nil
}

func (p profile) save() (path string, err error) {
	if path, err = profilePath(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("save profile: %w", err)
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return "", fmt.Errorf("save profile: %w", err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o600, renameio.IgnoreUmask()); err != nil {
		return "", fmt.Errorf("save profile: %w", err)
	}
	return path, nil
}

// access is the vault, token and certificate to use: flags, then the
// environment, then the profile. The profile's certificate stays pinned as
// long as its address or its token is used, so that a token never reaches
// another vault.
func (a *app) access() (profile, error) {
	p, err := loadProfile()
	if err != nil {
		return p, err
	}
	addr := cmp.Or(a.vault, os.Getenv(envVault))
	token := cmp.Or(a.tokenArg, os.Getenv(envToken))
	if addr != "" && token != "" && hostPort(addr) != p.Vault {
		p.CA = ""
	}
	p.Vault, p.Token = hostPort(cmp.Or(addr, p.Vault)), cmp.Or(token, p.Token)
	if file := cmp.Or(a.caFile, os.Getenv(envCA)); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return p, usageError{fmt.Errorf("--ca: %w", err)}
		}
		p.CA = string(pem)
	}
	return p, nil
}

// hostPort takes an address with or without https:// and without a port.
func hostPort(addr string) string {
	addr = strings.TrimSuffix(strings.TrimPrefix(addr, "https://"), "/")
	if addr == "" || strings.Contains(addr, "]:") || !strings.HasSuffix(addr, "]") && strings.Count(addr, ":") == 1 {
		return addr
	}
	return addr + ":8443"
}

// client returns a client of the vault that the command line, the environment
// or the profile names.
func (a *app) client() (*client.Client, error) {
	p, err := a.access()
	if err != nil {
		return nil, err
	}
	return p.client()
}

func (p profile) client() (*client.Client, error) {
	switch {
	case p.Vault == "":
		return nil, problem.New(problem.NotAuthenticated, "no vault is known: log in, or give --vault and --token")
	case p.Token == "":
		return nil, problem.New(problem.NotAuthenticated, "there is no token for %s: log in, or give --token", p.Vault)
	}
	return client.New(client.Config{URL: "https://" + p.Vault, Token: p.Token, CA: []byte(p.CA), Agent: rest.CLIAgent})
}
