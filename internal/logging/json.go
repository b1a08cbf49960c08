package logging

import (
	"bytes"
	"encoding/json"
)

// RedactJSON replaces the values of secret fields of a JSON document, at any depth,
// and anything that looks like a private key. What is no JSON becomes a note of its
// size: it may hold anything.
func RedactJSON(doc []byte) []byte {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return []byte("no JSON document; left out\n")
	}
	out, err := json.MarshalIndent(clean(v), "", "  ")
	if err != nil {
		return []byte("cannot be shown; left out\n")
	}
	return append(out, '\n')
}

func clean(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			if _, nested := x[k].(map[string]any); Secret(k) && !nested {
				x[k] = Redacted
			} else {
				x[k] = clean(x[k])
			}
		}
		return x
	case []any:
		for i := range x {
			x[i] = clean(x[i])
		}
		return x
	case string:
		if bytes.Contains([]byte(x), []byte("PRIVATE KEY")) {
			return Redacted
		}
	}
	return v
}
