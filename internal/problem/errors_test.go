package problem

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/errors.md anew")

const errorsFile = "../../docs/errors.md"

// exitOf and statusOf repeat what the comments on the kinds say; the command
// line and the API have tests of their own for it.
var kindRows = []struct {
	kind         Kind
	status, exit int
	meaning      string
}{
	{Invalid, 400, 2, "the request is malformed; nothing was changed"},
	{NotAllowed, 403, 5, "the caller may not do this"},
	{NotFound, 404, 4, "there is no such thing"},
	{Conflict, 409, 3, "refused by the present state"},
	{Internal, 500, 1, "a defect, or damaged data"},
	{Unavailable, 503, 7, "something that is needed cannot be reached"},
	{Exhausted, 507, 3, "no room, or over a limit"},
}

// TestErrorsDocument holds docs/errors.md to the registry. After a change:
// go test ./internal/problem -update
func TestErrorsDocument(t *testing.T) {
	want := errorsDocument()
	if *update {
		if err := os.WriteFile(errorsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(errorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the registry says; run 'go test ./internal/problem -update'", errorsFile)
	}
}

// TestEveryProblemIsComplete: a person who meets a problem is told what to do.
func TestEveryProblemIsComplete(t *testing.T) {
	for _, p := range All() {
		if p.Title == "" || p.RecommendedAction == "" || statusOf(p.Kind) == 0 || p.HTTPStatus() < 400 {
			t.Errorf("%s lacks a title, an action or a known kind: %+v", p.Code, p)
		}
	}
}

func statusOf(k Kind) int {
	for _, r := range kindRows {
		if r.kind == k {
			return r.status
		}
	}
	return 0
}

func errorsDocument() string {
	var b strings.Builder
	b.WriteString(`# Errors

<!-- Generated from internal/problem by "go test ./internal/problem -update". Do not edit. -->

Every error that reaches a person has a stable code. The API answers with a problem document (RFC 9457,
`)
	b.WriteString("`application/problem+json`) with `code`, `title`, `detail`, `possibleCauses` and `recommendedAction`. The command\nline prints the same and ends with the exit code of the kind.\n\n")
	b.WriteString("| kind | HTTP status | exit code | meaning |\n|---|---|---|---|\n")
	for _, r := range kindRows {
		fmt.Fprintf(&b, "| %s | %d | %d | %s |\n", r.kind, r.status, r.exit, r.meaning)
	}
	b.WriteString("\n\"Transient\" means that the same request may succeed later without a change.\n\n## Codes\n")
	for _, p := range All() {
		writeProblem(&b, p)
	}
	return b.String()
}

func writeProblem(b *strings.Builder, p Problem) {
	kind := fmt.Sprintf("%s, HTTP %d", p.Kind, p.HTTPStatus())
	if p.Transient {
		kind += ", transient"
	}
	fmt.Fprintf(b, "\n### %s\n\n%s. (%s)\n", p.Code, p.Title, kind)
	if len(p.PossibleCauses) > 0 {
		b.WriteString("\nPossible causes:\n\n")
		for _, c := range p.PossibleCauses {
			fmt.Fprintf(b, "- %s\n", c)
		}
	}
	fmt.Fprintf(b, "\nWhat to do: %s\n", p.RecommendedAction)
}
