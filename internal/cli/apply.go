package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"rebound/internal/problem"
	"rebound/internal/vault/client"
)

// The things that apply does to an object.
const (
	actionCreate = "create"
	actionChange = "change"
	actionKeep   = "unchanged"
	actionDelete = "delete"
)

// step is one object of an apply.
type step struct {
	Kind   string        `json:"kind"`
	ID     string        `json:"id"`
	Action string        `json:"action"`
	Where  string        `json:"where,omitempty"`
	Fields []fieldChange `json:"fields,omitempty"`
	Done   bool          `json:"done"`

	kind      *kind
	want, now any
}

func (a *app) newApply() *cobra.Command {
	var from string
	var prune bool
	cmd := &cobra.Command{
		Use: "apply -f FILE|DIR|-", Short: "Make the vault's objects as files describe them",
		Long: `Make sites, policies, mappings, groups and target settings as the documents of a YAML (or
JSON) file say, of every *.yaml, *.yml and *.json of a folder, or of the standard input.
Each document names its kind: site, policy, mapping, group, settings or plan; the other fields
are those of the API. 'rebound export' writes such documents.

What would change is shown field by field. All documents are read before anything is done;
a field that does not exist is refused with its line. A document says all that there is to
say of its object, except that a policy keeps what is left out. Applying the same files again changes nothing.
Nothing is ever deleted, unless --prune says so: then policies, mappings and plans that no
document names are deleted, if the files have a document of that kind, after a question.`,
		Example: `  rebound apply -f site.yaml --dry-run
  rebound apply -f dr/`,
		Annotations: map[string]string{dryRunKey: "yes"},
		Args:        cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return usageError{errors.New("-f is missing: a file, a folder, or - for the standard input")}
			}
			docs, err := a.readDocuments(from)
			if err != nil {
				return err
			}
			if err := checkTwice(docs); err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error { return a.apply(cmd.Context(), c, docs, prune) })
		},
	}
	cmd.Flags().StringVarP(&from, "filename", "f", "", "file, folder, or - for the standard input")
	cmd.Flags().BoolVar(&prune, "prune", false, "delete policies, mappings and plans that the files do not name")
	return cmd
}

// checkTwice refuses two documents of one object.
func checkTwice(docs []applied) error {
	if len(docs) == 0 {
		return problem.New(problem.InvalidRequest, "there is no document to apply")
	}
	seen := map[string]string{}
	for _, d := range docs {
		key := d.kind.name + "/" + d.id
		if first, ok := seen[key]; ok {
			return problem.New(problem.InvalidRequest, "%s: %s %s is described at %s already", d.where, d.kind.name, d.id, first)
		}
		seen[key] = d.where
	}
	return nil
}

func (a *app) apply(ctx context.Context, c *client.Client, docs []applied, prune bool) error {
	steps, err := planApply(ctx, c, docs, prune)
	if err != nil {
		return err
	}
	doomed := slices.DeleteFunc(slices.Clone(steps), func(s *step) bool { return s.Action != actionDelete })
	if len(doomed) > 0 && !a.dryRun {
		err := a.confirm(ctx, "delete with", "prune", func(w io.Writer) error {
			for _, s := range doomed {
				fmt.Fprintf(w, "delete %s %s\n", s.Kind, s.ID)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	var failure error
	for _, s := range steps {
		if a.dryRun || failure != nil {
			break
		}
		if err := s.run(ctx, a, c); err != nil {
			failure = fmt.Errorf("%s %s: %w", s.Kind, s.ID, err)
		}
	}
	if err := a.print(steps, func(t *table) { applyRows(t, steps, a.dryRun) }); err != nil {
		return err
	}
	return failure
}

// planApply compares the documents with what the vault has, in the order in which
// objects depend on each other.
func planApply(ctx context.Context, c *client.Client, docs []applied, prune bool) ([]*step, error) {
	steps := []*step{}
	var doomed []*step
	for _, k := range kinds() {
		mine := slices.DeleteFunc(slices.Clone(docs), func(d applied) bool { return d.kind.name != k.name })
		if len(mine) == 0 {
			continue
		}
		have, err := k.list(ctx, c)
		if err != nil {
			return nil, err
		}
		for i := range mine {
			s, err := planOne(ctx, c, &mine[i], have)
			if err != nil {
				return nil, err
			}
			steps = append(steps, s)
		}
		for _, o := range have {
			named := slices.ContainsFunc(mine, func(d applied) bool { return d.id == o.id })
			if prune && k.prune && !named && o.id != string(defaultPolicy) {
				doomed = append(doomed, &step{Kind: k.name, ID: o.id, Action: actionDelete, kind: k})
			}
		}
	}
	slices.Reverse(doomed) // what depends goes first
	return append(steps, doomed...), nil
}

func planOne(ctx context.Context, c *client.Client, d *applied, have []object) (*step, error) {
	s := &step{Kind: d.kind.name, ID: d.id, Where: d.where, Action: actionCreate, kind: d.kind}
	if i := slices.IndexFunc(have, func(o object) bool { return o.id == d.id }); i >= 0 {
		s.now, s.Action = have[i].value, actionChange
	}
	var err error
	if s.want, err = d.kind.want(ctx, c, d, s.now); err != nil {
		return nil, err
	}
	if s.Fields, err = diff(s.now, s.want); err != nil {
		return nil, err
	}
	if s.now != nil && len(s.Fields) == 0 {
		s.Action = actionKeep
	}
	return s, nil
}

func (s *step) run(ctx context.Context, a *app, c *client.Client) error {
	var err error
	switch s.Action {
	case actionDelete:
		err = s.kind.remove(ctx, c, s.ID)
	case actionCreate, actionChange:
		err = s.kind.put(ctx, a, c, s.want, s.now)
	}
	s.Done = err == nil
	return err
}

func applyRows(t *table, steps []*step, dry bool) {
	words := map[string]string{actionCreate: "created", actionChange: "changed", actionDelete: "deleted", actionKeep: "unchanged"}
	for _, s := range steps {
		word := words[s.Action]
		if s.Action != actionKeep {
			switch {
			case dry:
				word = "would be " + word
			case !s.Done:
				word = "not " + word
			}
		}
		t.row(s.Kind+" "+s.ID, word)
		for _, f := range s.Fields {
			switch {
			case f.From == nil:
				t.row("  + "+f.Field, fmt.Sprint(f.To))
			case f.To == nil:
				t.row("  - "+f.Field, fmt.Sprint(f.From))
			default:
				t.row("  ~ "+f.Field, fmt.Sprintf("%v -> %v", f.From, f.To))
			}
		}
	}
}

func (a *app) newExport() *cobra.Command {
	return &cobra.Command{
		Use: "export [KIND[/NAME]...]", Short: "Write the vault's objects as documents for 'rebound apply'",
		Long: `Write sites, policies, mappings, groups, target settings and plans as YAML documents that
'rebound apply -f' takes back: all, those of the named kinds, or single ones.`,
		Example: "  rebound export > dr.yaml\n  rebound export policy mapping/lan",
		Args: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				name, _, _ := strings.Cut(arg, "/")
				if !slices.ContainsFunc(kinds(), func(k *kind) bool { return k.name == name }) {
					return fmt.Errorf("%q is no kind of object", name)
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error { return a.export(cmd.Context(), c, args) })
		},
	}
}

func (a *app) export(ctx context.Context, c *client.Client, args []string) error {
	enc := yaml.NewEncoder(a.Out)
	enc.SetIndent(2)
	unused := slices.Clone(args)
	for _, k := range kinds() {
		asked := slices.DeleteFunc(slices.Clone(args), func(s string) bool {
			name, _, _ := strings.Cut(s, "/")
			return name != k.name
		})
		if len(args) > 0 && len(asked) == 0 {
			continue
		}
		have, err := k.list(ctx, c)
		if err != nil {
			return err
		}
		unused = slices.DeleteFunc(unused, func(s string) bool { return s == k.name })
		for _, o := range have {
			if len(args) > 0 && !slices.Contains(asked, k.name) && !slices.Contains(asked, k.name+"/"+o.id) {
				continue
			}
			unused = slices.DeleteFunc(unused, func(s string) bool { return s == k.name+"/"+o.id })
			if err := encodeDocument(enc, k, o.value); err != nil {
				return err
			}
		}
	}
	if len(unused) > 0 {
		return usageError{fmt.Errorf("there is no %s", strings.Join(unused, ", no "))}
	}
	return enc.Close()
}

// encodeDocument writes one object with its kind first.
func encodeDocument(enc *yaml.Encoder, k *kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", k.name, err)
	}
	var node yaml.Node
	if err := yaml.Unmarshal(b, &node); err != nil {
		return fmt.Errorf("encode %s: %w", k.name, err)
	}
	plainStyle(&node)
	body := node.Content[0]
	body.Content = append([]*yaml.Node{
		{Kind: yaml.ScalarNode, Tag: "!!str", Value: "kind"}, {Kind: yaml.ScalarNode, Tag: "!!str", Value: k.name},
	}, body.Content...)
	if err := enc.Encode(&node); err != nil {
		return fmt.Errorf("encode %s: %w", k.name, err)
	}
	return nil
}

// plainStyle writes JSON as people write YAML.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		plainStyle(child)
	}
}
