package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// fieldChange is one field that an applied document changes.
type fieldChange struct {
	Field string `json:"field"`
	From  any    `json:"from,omitempty"`
	To    any    `json:"to,omitempty"`
}

// diff lists the fields in which two values differ, by their names in JSON; now
// may be nil.
func diff(now, want any) ([]fieldChange, error) {
	a, err := flat(now)
	if err != nil {
		return nil, err
	}
	b, err := flat(want)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	var out []fieldChange
	for _, field := range slices.Sorted(maps.Keys(all)) {
		if a[field] != b[field] {
			out = append(out, fieldChange{field, a[field], b[field]})
		}
	}
	return out, nil
}

// flat returns the leaves of a value by their path; empty ones are left out, as
// absent.
func flat(v any) (map[string]any, error) {
	out := map[string]any{}
	if v == nil {
		return out, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	var plain any
	if err := json.Unmarshal(b, &plain); err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	flatten("", plain, out)
	return out, nil
}

func flatten(path string, v any, out map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			if path != "" {
				name = path + "." + name
			}
			flatten(name, field, out)
		}
	case []any:
		for i, item := range v {
			flatten(fmt.Sprintf("%s[%d]", path, i), item, out)
		}
	case nil:
	default:
		if v != "" && v != false && v != 0.0 {
			out[path] = v
		}
	}
}

func sameJSON(a, b any) bool {
	changes, err := diff(a, b)
	return err == nil && len(changes) == 0
}
