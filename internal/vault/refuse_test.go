package vault_test

import (
	"testing"

	"rebound/internal/problem"
)

func wantCode(t *testing.T, err error, code problem.Code) {
	t.Helper()
	if !problem.HasCode(err, code) {
		t.Errorf("error %v, want %s", err, code)
	}
}
