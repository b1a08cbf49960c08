package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"rebound/internal/problem"
)

// applied is one object of an applied file.
type applied struct {
	kind *kind
	id   string
	// where names file and line.
	where string
	node  *yaml.Node
}

// readDocuments reads a file, every *.yaml, *.yml and *.json of a folder, or
// the standard input ("-"). Each document names its kind.
func (a *app) readDocuments(path string) ([]applied, error) {
	if path == "-" {
		return readStream("standard input", a.In)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, usageError{fmt.Errorf("-f: %w", err)}
	}
	files := []string{path}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, usageError{fmt.Errorf("-f: %w", err)}
		}
		files = nil
		for _, e := range entries {
			if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	var all []applied
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError{fmt.Errorf("-f: %w", err)}
		}
		docs, err := readStream(name, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		all = append(all, docs...)
	}
	return all, nil
}

func readStream(name string, r io.Reader) ([]applied, error) {
	dec := yaml.NewDecoder(r)
	var all []applied
	for {
		var root yaml.Node
		err := dec.Decode(&root)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, problem.Wrap(err, problem.InvalidRequest, "%s: %v", name, err)
		}
		if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
			continue // nothing between two separators
		}
		d, err := newDocument(name, root.Content[0])
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
}

func newDocument(file string, node *yaml.Node) (applied, error) {
	d := applied{where: fmt.Sprintf("%s:%d", file, node.Line)}
	if node.Kind != yaml.MappingNode {
		return d, problem.New(problem.InvalidRequest, "%s: want an object with 'kind' and its fields", d.where)
	}
	fields := &yaml.Node{Kind: yaml.MappingNode, Line: node.Line, Tag: node.Tag}
	name, line := "", node.Line
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == "kind" {
			name, line = node.Content[i+1].Value, node.Content[i].Line
			continue
		}
		fields.Content = append(fields.Content, node.Content[i:i+2]...)
	}
	all := kinds()
	i := slices.IndexFunc(all, func(k *kind) bool { return strings.EqualFold(k.name, name) })
	if i < 0 {
		names := []string{}
		for _, k := range all {
			names = append(names, k.name)
		}
		return d, problem.New(problem.InvalidRequest, "%s:%d: kind %q: want one of %s", file, line, name, strings.Join(names, ", "))
	}
	d.kind, d.node = all[i], fields
	id, err := d.idOf(fields)
	d.id = id
	return d, err
}

// idOf reads the field that names the object.
func (d *applied) idOf(fields *yaml.Node) (string, error) {
	for i := 0; i+1 < len(fields.Content); i += 2 {
		if fields.Content[i].Value == d.kind.key && fields.Content[i+1].Value != "" {
			return fields.Content[i+1].Value, nil
		}
	}
	return "", problem.New(problem.InvalidRequest, "%s: a %s has no %q", d.where, d.kind.name, d.kind.key)
}

// decode reads the document into a value, over what that holds. A field that
// the value does not have is refused, with its line.
func (d *applied) decode(into any) error {
	var plain any
	if err := d.node.Decode(&plain); err != nil {
		return problem.Wrap(err, problem.InvalidRequest, "%s: %v", d.where, err)
	}
	b, err := json.Marshal(plain)
	if err != nil {
		return problem.Wrap(err, problem.InvalidRequest, "%s: a key is no text", d.where)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	err = dec.Decode(into)
	if err == nil {
		return nil
	}
	file := d.where[:strings.LastIndex(d.where, ":")]
	if typed, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		line := lineOf(d.node, typed.Field[strings.LastIndex(typed.Field, ".")+1:])
		return problem.Wrap(err, problem.InvalidRequest, "%s:%d: field %q is a %s, want %s", file, line, typed.Field, typed.Value, typed.Type)
	}
	if _, name, ok := strings.Cut(err.Error(), "unknown field "); ok {
		name = strings.Trim(name, `"`)
		return problem.Wrap(err, problem.InvalidRequest, "%s:%d: a %s has no field %q", file, lineOf(d.node, name), d.kind.name, name)
	}
	return problem.Wrap(err, problem.InvalidRequest, "%s: %v", d.where, err)
}

// lineOf finds the line of the first field of a name; the node's own when there
// is none.
func lineOf(node *yaml.Node, name string) int {
	if line, ok := findField(node, name); ok {
		return line
	}
	return node.Line
}

func findField(node *yaml.Node, name string) (line int, ok bool) {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			if child.Value == name {
				return child.Line, true
			}
			continue
		}
		if line, ok := findField(child, name); ok {
			return line, true
		}
	}
	return 0, false
}
