package cli

import "testing"

func TestAddedText(t *testing.T) {
	for _, tc := range []struct{ seen, text, want string }{
		{"", "a\nb\n", "a\nb\n"},
		{"a\nb\n", "a\nb\n", ""},
		{"a\nb\n", "a\nb\nc\n", "c\n"},
		{"a\nb\nc\n", "b\nc\nd\n", "d\n"},
		{"a\nb\n", "x\ny\n", "x\ny\n"},
		{"a\nlog\n", "a\nlogin:\n", "in:\n"},
	} {
		if got := addedText(tc.seen, tc.text); got != tc.want {
			t.Errorf("%q after %q adds %q, want %q", tc.text, tc.seen, got, tc.want)
		}
	}
}
