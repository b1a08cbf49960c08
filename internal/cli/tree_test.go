package cli

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/commands.md anew")

func newTree() *cobra.Command { return newApp(Streams{}).newRoot() }

// walk calls f with every command that people see.
func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	if cmd.Hidden || cmd.Name() == "help" {
		return
	}
	f(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, f)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	walk(newTree(), func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: its short help is %q", path, cmd.Short)
		}
		if !cmd.Runnable() {
			return // a help topic
		}
		if !strings.Contains(cmd.Example, path) {
			t.Errorf("%s: no example shows it:\n%s", path, cmd.Example)
		}
		if cmd.Args == nil {
			t.Errorf("%s does not check its arguments", path)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s has no help", path, f.Name)
			}
		})
	})
}

var wordRE = regexp.MustCompile(`"[^"]*"|\S+`)

// TestExamplesAreValid: each line that begins with rebound names a command,
// its flags and as many arguments as it takes.
func TestExamplesAreValid(t *testing.T) {
	lines := 0
	walk(newTree(), func(cmd *cobra.Command) {
		text := strings.ReplaceAll(cmd.Example, "\\\n", "")
		for _, line := range strings.Split(text, "\n") {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " <") // redirections
			line, _, _ = strings.Cut(line, " > ")
			if !strings.HasPrefix(line, "rebound ") {
				continue
			}
			lines++
			words := wordRE.FindAllString(line, -1)[1:]
			found, rest, err := newTree().Find(words)
			found.InitDefaultHelpFlag()
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil && found.Flags().Lookup("help").Value.String() != "true" {
				err = found.ValidateArgs(found.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
			}
		}
	})
	if lines < 60 {
		t.Errorf("only %d examples were found", lines)
	}
}

func TestHelpOfEveryCommand(t *testing.T) {
	var paths []string
	walk(newTree(), func(cmd *cobra.Command) { paths = append(paths, cmd.CommandPath()) })
	for _, p := range paths {
		if strings.Contains(p, "exit-codes") {
			continue
		}
		r := want(t, exitOK, append(strings.Fields(p)[1:], "--help")...)
		contains(t, r.out, "Usage:", "Examples:", p)
	}
	contains(t, want(t, exitOK, "help", "exit-codes").out, "6  the job waits for a person")
	contains(t, want(t, exitOK).out, "rebound exit-codes")
}

// TestCommandsDocument: docs/commands.md is what the commands say of themselves.
func TestCommandsDocument(t *testing.T) {
	const path = "../../docs/commands.md"
	text := document(newTree())
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if mustRead(t, path) != text {
		t.Errorf("%s is out of date: run 'go test ./internal/cli -run TestCommandsDocument -update'", path)
	}
}

// document writes the commands as Markdown.
func document(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# Commands\n\nWritten by `go test ./internal/cli -run TestCommandsDocument -update`; do not edit.\n\n")
	walk(root, func(cmd *cobra.Command) {
		if cmd.Runnable() {
			fmt.Fprintf(&b, "- [%s](#%s): %s\n", cmd.CommandPath(), strings.ReplaceAll(cmd.CommandPath(), " ", "-"), cmd.Short)
		}
	})
	fmt.Fprintf(&b, "\n## rebound\n\n%s\n\n### Global flags\n\n```\n%s```\n", fence(root.Long), root.PersistentFlags().FlagUsages())
	for _, sub := range root.Commands() {
		walk(sub, func(cmd *cobra.Command) { section(&b, cmd) })
	}
	return b.String()
}

func fence(text string) string { return "```\n" + strings.TrimSpace(text) + "\n```" }

func section(b *strings.Builder, cmd *cobra.Command) {
	if !cmd.Runnable() {
		return
	}
	level := "##"
	if cmd.Parent().HasParent() {
		level = "###"
	}
	fmt.Fprintf(b, "\n%s %s\n\n%s.\n", level, cmd.CommandPath(), cmd.Short)
	if cmd.Long != "" {
		fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(cmd.Long))
	}
	use := cmd.UseLine()
	if cmd.HasSubCommands() && cmd.Flags().HasAvailableFlags() || !cmd.HasSubCommands() {
		fmt.Fprintf(b, "\n```\n%s\n```\n", use)
	}
	if flags := cmd.LocalNonPersistentFlags(); flags.HasAvailableFlags() {
		fmt.Fprintf(b, "\nFlags:\n\n```\n%s```\n", flags.FlagUsages())
	}
	fmt.Fprintf(b, "\nExamples:\n\n```\n%s\n```\n", strings.TrimRight(cmd.Example, "\n"))
}
