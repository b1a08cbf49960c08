package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"rebound/internal/lifecycle"
)

func TestRoles(t *testing.T) {
	for i, have := range Roles() {
		for j, need := range Roles() {
			if got := have.Allows(need); got != (i >= j) {
				t.Errorf("%s allows %s: %v", have, need, got)
			}
		}
		if have.Allows("") || Role("").Allows(have) || Role("king").Allows(have) || have.Allows("king") {
			t.Errorf("%s and what is no role", have)
		}
	}
	for _, row := range lifecycle.Table() {
		if Operations()[row.Operation] == "" {
			t.Errorf("no role for %s", row.Operation)
		}
	}
	if OperationRole("abolish") != Owner || OperationRole(lifecycle.Disable) != Contributor || OperationRole(lifecycle.Failback) != Operator {
		t.Error("roles of operations")
	}
}

func TestPasswords(t *testing.T) {
	cheap := hashWith(cost{time: 1, memoryKiB: 64, threads: 1}, "correct horse battery")
	if cheap == hashWith(cost{time: 1, memoryKiB: 64, threads: 1}, "correct horse battery") {
		t.Error("two hashes have one salt")
	}
	for password, want := range map[string]bool{"correct horse battery": true, "Correct horse battery": false, "": false, strings.Repeat("x", 5000): false} {
		if right, stale, err := ComparePassword(cheap, password); err != nil || right != want || !stale {
			t.Errorf("%.30q: %v, stale %v, %v", password, right, stale, err)
		}
	}
	now := HashPassword("correct horse battery")
	if !strings.HasPrefix(now, "$argon2id$v=19$m=65536,t=3,p=4$") {
		t.Errorf("hash %s", now)
	}
	if right, stale, err := ComparePassword(now, "correct horse battery"); err != nil || !right || stale {
		t.Errorf("present cost: %v %v %v", right, stale, err)
	}
	for _, bad := range []string{
		"", "$", "plain", "$argon2i$v=19$m=64,t=1,p=1$YWFhYWFhYWE$YWFhYWFhYWFhYWFhYWFhYQ", strings.Replace(cheap, "v=19", "v=16", 1),
		strings.Replace(cheap, "m=64", "m=4294967295", 1), strings.Replace(cheap, "t=1", "t=0", 1), strings.Replace(cheap, "p=1", "p=0", 1), cheap[:len(cheap)-30],
	} {
		if right, _, err := ComparePassword(bad, "correct horse battery"); err == nil || right {
			t.Errorf("%q: %v %v", bad, right, err)
		}
	}
	for password, want := range map[string]bool{"short": false, "aaaaaaaaaaaaaaaa": false, "ALICE-ALICE-ALICE": false, "täglich grüßt es": true, strings.Repeat("xy", 600): false} {
		if err := CheckPassword("alice-alice-alice", password); (err == nil) != want {
			t.Errorf("%.30q: %v", password, err)
		}
	}
}

func TestLimiter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := NewLimiter(func() time.Time { return now })
	g := GuessOf("login", "alice", "10.0.0.1")
	var waits []time.Duration
	for range 12 {
		wait := l.Begin(g)
		waits = append(waits, wait)
		now = now.Add(wait)
	}
	for i, want := range []time.Duration{0, 0, 0, 0, 0, time.Second, 0, 2 * time.Second, 0, 4 * time.Second, 0, 8 * time.Second} {
		if waits[i] != want {
			t.Fatalf("waits %v", waits)
		}
	}
	if wait := l.Begin(GuessOf("login", "alice", "10.0.0.2")); wait != 0 {
		t.Errorf("the user from another address waits %v", wait)
	}
	now = now.Add(time.Minute)
	if l.Begin(g) != 0 {
		t.Fatal("after the pause")
	}
	l.Right(g)
	for i := range 4 {
		if wait := l.Begin(g); wait != 0 {
			t.Errorf("attempt %d after the right one waits %v", i, wait)
		}
	}
	// One address, many names.
	waited := false
	for i := range 40 {
		waited = waited || l.Begin(GuessOf("login", fmt.Sprint("user", i), "10.0.0.3")) > 0
	}
	if !waited {
		t.Error("an address guesses without end")
	}
	// Many addresses, one name.
	waited = false
	for i := range 100 {
		waited = waited || l.Begin(GuessOf("login", "bob", fmt.Sprint("10.1.0.", i))) > 0
	}
	if !waited {
		t.Error("many addresses guess without end")
	}
	for i := range 30_000 {
		l.Begin(GuessOf("login", fmt.Sprint(i), fmt.Sprint("a", i)))
	}
	if n := len(l.fails); n > maxTracked {
		t.Errorf("%d failures are kept", n)
	}
}
