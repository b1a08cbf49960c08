package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"rebound/internal/problem"
)

func TestWrongCommandLines(t *testing.T) {
	noProfile(t)
	for _, line := range []string{
		"failovr", "site nonsense", "status surplus", "item show", "item show a b", "--bogus", "item list --bogus",
		"item list -o xml", "job show J --timeout -1s", "job show J --timeout soon",
		"failover shop", "failover shop --planned --unplanned", "failover shop --planned --point p1",
		"failback shop --planned --unplanned", "change-point shop", "point create shop", "apply", "export vm", "item settings", "mapping create m", "group update shop",
		"machine import --site home", "machine protect", "machine protect web",
		"point list shop --from yesterday", "gateway enroll gw", "token create --name n",
		"completion tcsh", "check --sample 0s", "site delete home --dry-run", "gateway revoke gw --dry-run",
		"policy update default --dry-run", "token create --name n --role reader --dry-run", "vault serve --dry-run",
	} {
		r := want(t, exitUsage, strings.Fields(line)...)
		if !strings.HasPrefix(r.err, "Error: ") || r.out != "" {
			t.Errorf("rebound %s wrote %q and %q", line, r.out, r.err)
		}
	}
	contains(t, run(t, "failovr").err, `unknown command "failovr"`, "did you mean failover?")
	refused(t, exitUsage, "InvalidRequest", "item", "show")
}

func TestNobodyLoggedIn(t *testing.T) {
	noProfile(t)
	refused(t, exitNotAllowed, "NotAuthenticated", "status")
	refused(t, exitNotAllowed, "NotAuthenticated", "status", "--vault", "127.0.0.1:1")
}

func TestVaultUnreachable(t *testing.T) {
	noProfile(t)
	f := refused(t, exitUnreachable, "VaultUnreachable", "status", "--vault", "127.0.0.1:1", "--token", "x")
	contains(t, f.Error.Detail, "127.0.0.1:1", "connection refused")
	t.Setenv(envVault, "127.0.0.1:1")
	t.Setenv(envToken, "x")
	for _, line := range []string{"item list", "failover shop --unplanned --yes", "job watch J", "group watch shop", "event watch"} {
		r := want(t, exitUnreachable, strings.Fields(line)...)
		contains(t, r.err, "VaultUnreachable", "Try: ")
	}
}

func TestExitCodes(t *testing.T) {
	codes := map[problem.Kind]int{
		problem.Invalid: 2, problem.NotFound: 4, problem.NotAllowed: 5, problem.Conflict: 3,
		problem.Exhausted: 3, problem.Unavailable: 7, problem.Internal: 1,
	}
	for _, p := range problem.All() {
		if got := exitCode(fmt.Errorf("wrapped: %w", &p)); got != codes[p.Kind] {
			t.Errorf("%s (%s): exit %d", p.Code, p.Kind, got)
		}
	}
	failed := jobError{exitFailed, "failed", problem.New(problem.UnknownPoint, "p")}
	for err, code := range map[error]int{nil: 0, errors.New("any"): 1, usageError{errors.New("u")}: 2, failed: 1} {
		if got := exitCode(err); got != code {
			t.Errorf("%v: exit %d, want %d", err, got, code)
		}
	}
	if !strings.Contains(exitCodesHelp, "  7  ") {
		t.Error("the help does not list exit code 7")
	}
}

func TestAddresses(t *testing.T) {
	for in, out := range map[string]string{
		"vault": "vault:8443", "vault:1": "vault:1", "https://vault:1/": "vault:1", "[::1]": "[::1]:8443", "[::1]:9": "[::1]:9", "10.0.0.1": "10.0.0.1:8443", "": "",
	} {
		if got := hostPort(in); got != out {
			t.Errorf("hostPort(%q) = %q, want %q", in, got, out)
		}
	}
}
