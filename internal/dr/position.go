package dr

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Generation grows with every change of a group's active site; it is the
// fencing token. The first generation is 1; 0 means none.
type Generation uint64

// Epoch counts the starts of a group's sequencer within the life of the
// group; it never goes back, across generations too. The standby hands it
// out. The first epoch is 1; 0 means none.
type Epoch uint64

// Seq numbers the entries of one epoch, without gaps, from 1. 0 means before
// the first entry.
type Seq uint64

// Position is one place in a group's stream: after entry Seq of Epoch of
// Generation. The zero Position is before everything.
type Position struct {
	Generation Generation
	Epoch      Epoch
	Seq        Seq
}

// Compare orders positions by generation, epoch and sequence.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Generation, q.Generation); c != 0 {
		return c
	}
	if c := cmp.Compare(p.Epoch, q.Epoch); c != 0 {
		return c
	}
	return cmp.Compare(p.Seq, q.Seq)
}

// Before reports p < q.
func (p Position) Before(q Position) bool { return p.Compare(q) < 0 }

// IsZero reports whether p is before everything.
func (p Position) IsZero() bool { return p == Position{} }

// String prints the form that ParsePosition reads: "g1.e2.n345".
func (p Position) String() string {
	return fmt.Sprintf("g%d.e%d.n%d", p.Generation, p.Epoch, p.Seq)
}

// ParsePosition reads the form that String prints.
func ParsePosition(s string) (Position, error) {
	bad := fmt.Errorf("position %q: want g<generation>.e<epoch>.n<sequence>, such as g1.e2.n345", s)
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return Position{}, bad
	}
	var nums [3]uint64
	for i, letter := range []string{"g", "e", "n"} {
		digits, ok := strings.CutPrefix(parts[i], letter)
		if !ok {
			return Position{}, bad
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || strconv.FormatUint(n, 10) != digits {
			return Position{}, bad
		}
		nums[i] = n
	}
	return Position{Generation(nums[0]), Epoch(nums[1]), Seq(nums[2])}, nil
}

// MarshalText writes the form of String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the form of String; an empty text is the zero position.
func (p *Position) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*p = Position{}
		return nil
	}
	q, err := ParsePosition(string(b))
	if err != nil {
		return err
	}
	*p = q
	return nil
}
