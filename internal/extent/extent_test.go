package extent

import (
	"testing"

	"pgregory.net/rapid"
)

// TestSetAgainstBytes holds Set against the plainest model: one bool a byte.
func TestSetAgainstBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		var model [size]bool
		var s Set
		rng := rapid.Custom(func(t *rapid.T) Range {
			off := rapid.Int64Range(0, size).Draw(t, "off")
			return Range{off, rapid.Int64Range(0, size-off).Draw(t, "len")}
		})
		for range rapid.IntRange(1, 40).Draw(t, "ops") {
			r := rng.Draw(t, "range")
			add := rapid.Bool().Draw(t, "add")
			if add {
				s.Add(r)
			} else {
				s.Remove(r)
			}
			for i := r.Off; i < r.End(); i++ {
				model[i] = add
			}
			check(t, &s, model[:], rng.Draw(t, "probe"))
		}
	})
}

func check(t *rapid.T, s *Set, model []bool, probe Range) {
	var bytes int64
	for _, b := range model {
		if b {
			bytes++
		}
	}
	if s.Bytes() != bytes {
		t.Fatalf("Bytes = %d, want %d: %v", s.Bytes(), bytes, s.Runs())
	}
	for i := 1; i < len(s.Runs()); i++ {
		if s.Runs()[i].Off <= s.Runs()[i-1].End() {
			t.Fatalf("runs touch: %v", s.Runs())
		}
	}
	inside := make([]bool, len(model))
	any := false
	for _, r := range s.Within(probe) {
		for i := r.Off; i < r.End(); i++ {
			inside[i] = true
			any = true
		}
	}
	for _, r := range s.Outside(probe) {
		for i := r.Off; i < r.End(); i++ {
			if inside[i] || model[i] {
				t.Fatalf("byte %d is outside and inside", i)
			}
		}
	}
	for i := probe.Off; i < probe.End(); i++ {
		if inside[i] != model[i] {
			t.Fatalf("byte %d: within %v, model %v", i, inside[i], model[i])
		}
	}
	if s.Overlaps(probe) != any {
		t.Fatalf("Overlaps(%v) = %v, want %v", probe, !any, any)
	}
}
