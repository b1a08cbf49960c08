package site_test

import (
	"strings"
	"testing"

	"rebound/internal/site"
)

func TestConsoleText(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"plain", "boot\r\nlogin: ", "boot\nlogin:\n"},
		{"colour", "\x1b[1;32m[ OK ]\x1b[0m Started\n", "[ OK ] Started\n"},
		{"cursor", "\x1b[2J\x1b[01;01HBdsDxe\x1b[02;01Hloading", "BdsDxe\nloading\n"},
		{"progress", "10%\r20%\r100%\n", "100%\n"},
		{"backspace", "rooo\bt", "root\n"},
		{"title", "a\x1b]0;owned\x07b\x1bPq\x1b\\c", "abc\n"},
		{"charset", "\x1b(Bx\x1b7y\x1b", "xy\n"},
		{"cut off", "x\x1b[12;", "x\n"},
		{"broken sequence", "x\x1b[12\ny", "x\ny\n"},
		{"controls", "a\x00\x07\x9bb\u202ec", "a�bc\n"},
		{"empty", "", "\n"},
	} {
		if got := site.ConsoleText([]byte(tc.in)); got != tc.want {
			t.Errorf("%s: %q becomes %q, want %q", tc.name, tc.in, got, tc.want)
		}
	}
}

func FuzzConsoleText(f *testing.F) {
	f.Add([]byte("\x1b[1;32mx\x1b]0;t\x07\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := site.ConsoleText(raw)
		if i := strings.IndexFunc(got, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Fatalf("%q has a control character at %d", got, i)
		}
	})
}
