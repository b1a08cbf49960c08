package dr

import (
	"slices"
	"testing"
)

func TestPositionRoundTrip(t *testing.T) {
	for _, p := range []Position{{}, {1, 2, 3}, {1 << 40, 9, 1<<64 - 1}} {
		q, err := ParsePosition(p.String())
		if err != nil || q != p {
			t.Errorf("ParsePosition(%q) = %v, %v", p.String(), q, err)
		}
	}
	for _, s := range []string{"", "g1", "g1.e2", "g1.e2.n", "g1.e2.n-1", "g1.e2.n03", "e1.g2.n3", "g1.e2.n3.x"} {
		if _, err := ParsePosition(s); err == nil {
			t.Errorf("ParsePosition(%q): no error", s)
		}
	}
}

func TestPositionOrder(t *testing.T) {
	want := []Position{{}, {1, 1, 9}, {1, 2, 0}, {1, 2, 1}, {2, 1, 0}}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Position.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("sorted %v, want %v", got, want)
	}
}

func TestValidName(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "db-01": true, "": false, "-a": false, "a-": false, "a_b": false, "a b": false, string(make([]byte, 64)): false} {
		if err := ValidName(name); (err == nil) != ok {
			t.Errorf("ValidName(%q) = %v", name, err)
		}
	}
}
