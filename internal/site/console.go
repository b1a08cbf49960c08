package site

import (
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rebound/internal/dr"
)

// Console shows what a running machine shows: the picture of its display, the
// last text of its serial console, or both, so that a person can see that it
// boots. A machine that does not run is MachineNotRunning, one that has neither
// is ConsoleUnavailable.
//
// Contract: looking changes nothing in the machine, does not hold it up, and
// holds up no other call for it; it ends within seconds though the hypervisor
// hangs.
type Console interface {
	Console(ctx context.Context, name dr.MachineName) (ConsoleView, error)
}

// ConsoleView is what a machine shows at a moment.
type ConsoleView struct {
	Machine dr.MachineName `json:"machine"`
	State   PowerState     `json:"state"`
	// At is when it was looked at, BootedAt when the present run of the
	// machine began; both by the clock of the machine's host.
	At       time.Time `json:"at"`
	BootedAt time.Time `json:"bootedAt,omitzero"`
	// Picture is a PNG of Width by Height pixels; none when the machine has
	// no display, or when PictureProblem says why there is no picture.
	Picture        []byte `json:"picture,omitempty"`
	Width          int    `json:"width,omitempty"`
	Height         int    `json:"height,omitempty"`
	PictureProblem string `json:"pictureProblem,omitempty"`
	// Text is the end of what the serial console showed since BootedAt, made
	// plain (ConsoleText). HasText: there is a serial console, though it may
	// have shown nothing yet.
	Text    string `json:"text,omitempty"`
	HasText bool   `json:"hasText"`
}

// ConsoleBytes is how much of a serial console's end is shown.
const ConsoleBytes = 16 << 10

// ConsoleText turns what a guest wrote to a serial console into plain text:
// printable characters, tabs and line feeds. A guest must not be able to steer
// the terminal of the person who looks at it, so that escape sequences are
// dropped. A carriage return, a backspace and a move of the cursor do what they
// do on a terminal of one line.
func ConsoleText(raw []byte) string {
	var p plainText
	for len(raw) > 0 {
		r, n := utf8.DecodeRune(raw)
		if r == 0x1b {
			raw = p.escape(raw)
			continue
		}
		raw = raw[n:]
		p.rune(r)
	}
	return strings.TrimRight(p.done.String()+string(p.line), " \t\n") + "\n"
}

type plainText struct {
	done strings.Builder
	line []rune
	back bool // a carriage return: what comes next begins the line anew
}

func (p *plainText) rune(r rune) {
	switch {
	case r == '\n':
		p.newLine()
	case r == '\r':
		p.back = true
	case r == '\b':
		p.line = p.line[:max(0, len(p.line)-1)]
	case r == '\t' || unicode.IsPrint(r):
		if p.back {
			p.line, p.back = p.line[:0], false
		}
		p.line = append(p.line, r)
	}
}

func (p *plainText) newLine() {
	p.done.WriteString(strings.TrimRight(string(p.line), " \t"))
	p.done.WriteByte('\n')
	p.line, p.back = p.line[:0], false
}

// escape drops an escape sequence (ECMA-48) from the front of raw; a move of the
// cursor, or a cleared screen, ends the line.
func (p *plainText) escape(raw []byte) []byte {
	if len(raw) < 2 {
		return nil
	}
	switch raw[1] {
	case '[':
		for i, c := range raw[2:] {
			if c < 0x20 || c > 0x7e { // no part of a sequence: it broke off
				return raw[2+i:]
			}
			if c >= 0x40 {
				if strings.IndexByte("HfABEFJ", c) >= 0 && len(p.line) > 0 {
					p.newLine()
				}
				return raw[3+i:]
			}
		}
		return nil
	case ']', 'P', '^', '_': // strings, ended by BEL or ESC \
		for i, c := range raw[2:] {
			if c == 0x07 {
				return raw[3+i:]
			}
			if c == 0x1b {
				return raw[2+i+min(2, len(raw)-2-i):]
			}
		}
		return nil
	case '(', ')', '#', '%':
		return raw[min(3, len(raw)):]
	default:
		return raw[2:]
	}
}
