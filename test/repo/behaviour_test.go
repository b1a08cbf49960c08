package repo

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The rows that docs/behaviour.md must have: S01 to S60 and the negative tests.
const (
	lastS = 60
	lastN = 19
)

var (
	behaviourRow = regexp.MustCompile(`^\| ([SN]\d\d) \|.*\| ([^|]*) \| (qemu|fake|open) \|$`)
	testName     = regexp.MustCompile("`(Test[A-Za-z0-9]*)(?:/([A-Za-z0-9_]+))?`")
)

// TestBehaviourRows: no row is missing, and each names a test that exists.
func TestBehaviourRows(t *testing.T) {
	text, err := os.ReadFile("../../docs/behaviour.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testSources(t)
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		m := behaviourRow.FindStringSubmatch(strings.TrimSpace(strings.Replace(line, "| |", "|  |", 1)))
		if m == nil {
			if strings.HasPrefix(line, "| S") || strings.HasPrefix(line, "| N") {
				t.Errorf("not a row: %s", line)
			}
			continue
		}
		if seen[m[1]] {
			t.Errorf("row %s is there twice", m[1])
		}
		seen[m[1]] = true
		names := testName.FindAllStringSubmatch(m[2], -1)
		if (len(names) == 0) != (m[3] == "open") {
			t.Errorf("row %s is %s and names %d tests", m[1], m[3], len(names))
		}
		for _, n := range names {
			if !strings.Contains(tests, "func "+n[1]+"(") {
				t.Errorf("row %s names %s, which does not exist", m[1], n[1])
			}
			if n[2] != "" && (!strings.HasPrefix(n[2], m[1]+"_") || !strings.Contains(tests, `"`+n[2]+`"`)) {
				t.Errorf("row %s names the subtest %q, which does not exist or is another row's", m[1], n[2])
			}
		}
	}
	for i := 1; i <= lastS; i++ {
		if id := fmt.Sprintf("S%02d", i); !seen[id] {
			t.Errorf("row %s is missing", id)
		}
	}
	for i := 1; i <= lastN; i++ {
		if id := fmt.Sprintf("N%02d", i); !seen[id] {
			t.Errorf("row %s is missing", id)
		}
	}
}

// testSources is the text of all test files of the project.
func testSources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, root := range []string{"../../internal", "../../test", "../../cmd"} {
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "behaviour_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
