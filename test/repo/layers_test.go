package repo

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// layer gives each folder below internal/ its height; the longest name that
// fits counts. A package imports only packages that are lower, or others of its
// own folder.
var layer = map[string]int{
	"dr": 0, "problem": 0,
	"extent": 1,
	"block":  2,
	"nbd":    3, "qmp": 3, "qga": 3, "segment": 3, "identity": 3,
	"link": 4, "journal": 4,
	"resync":  5,
	"spool":   5,
	"capture": 6,
	"site":    6,
	"control": 7, "lifecycle": 7,
	// What the vault's API says, apart from the vault itself.
	"vault/rest":    8,
	"vault/auth":    8,
	"vault/client":  9,
	"vault/store":   9,
	"vault/health":  9,
	"vault/backup":  10,
	"vault/webhook": 10,
	"vault/monitor": 11,
	"metrics":       1,
	"logging":       1,
	"vault/live":    10,
	"agent":         9,
	"gateway":       9,
	"orchestrator":  11,
	"vault":         12,
	"lab":           13,
	"ui":            13,
	"cli":           14,
}

// leaves may import nothing of ours but these.
var leaves = map[string][]string{
	"dr":       {},
	"problem":  {},
	"extent":   {},
	"block":    {"dr", "extent", "problem"},
	"nbd":      {"dr", "extent", "problem", "block"},
	"qmp":      {"problem"},
	"qga":      {},
	"segment":  {"dr", "extent", "problem"},
	"identity": {"problem", "dr"},
}

type pkg struct {
	ImportPath string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports", "rebound/...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// room returns the folder of a package in the table, or "" for packages
// outside internal/. A folder that the table lacks is returned as it is.
func room(path string) string {
	rest, ok := strings.CutPrefix(path, "rebound/internal/")
	if !ok {
		return ""
	}
	parts := strings.Split(rest, "/")
	for n := len(parts); n > 0; n-- {
		name := strings.Join(parts[:n], "/")
		if _, ok := layer[name]; ok {
			return name
		}
	}
	return parts[0]
}

func TestLayers(t *testing.T) {
	for _, p := range packages(t) {
		from := room(p.ImportPath)
		if from == "" {
			continue
		}
		height, ok := layer[from]
		if !ok {
			t.Errorf("%s: its folder has no layer; add it to the table with a thought", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			to := room(imp)
			if to == "" || to == from {
				continue
			}
			if layer[to] >= height {
				t.Errorf("%s (layer %d) imports %s (layer %d): imports point downwards", p.ImportPath, height, imp, layer[to])
			}
			if allowed, leaf := leaves[from]; leaf && !contains(allowed, to) {
				t.Errorf("%s is a leaf and may not import %s", p.ImportPath, imp)
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && strings.TrimSpace(p.Doc) == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestShippedBinaryIsPureGo: what ships needs no C and no test helper.
func TestShippedBinaryIsPureGo(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if .CgoFiles}}{{.ImportPath}}{{end}}", "rebound/cmd/rebound")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	if s := strings.TrimSpace(string(out)); s != "" {
		t.Errorf("packages with C code in the binary:\n%s", s)
	}
}
