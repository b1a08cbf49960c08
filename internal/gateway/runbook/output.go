package runbook

import (
	"fmt"
	"strings"
	"sync"

	"rebound/internal/control"
)

// bounded keeps the first and the last bytes of what is written to it, half of
// control.OutputLimit each.
type bounded struct {
	mu    sync.Mutex
	head  []byte
	tail  []byte
	total int64
}

const half = control.OutputLimit / 2

// Write implements io.Writer; it never fails.
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(p)
	b.total += int64(n)
	take := min(half-len(b.head), n)
	b.head = append(b.head, p[:take]...)
	b.tail = append(b.tail, p[take:]...)
	if len(b.tail) > 2*half { // cut seldom, not at each write
		b.tail = append(b.tail[:0], b.tail[len(b.tail)-half:]...)
	}
	return n, nil
}

// text returns what is kept, valid UTF-8, with a line that says what is
// missing; and how many bytes there were.
func (b *bounded) text() (string, int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	tail := b.tail[max(0, len(b.tail)-half):]
	missing := b.total - int64(len(b.head)+len(tail))
	text := string(b.head)
	if missing > 0 {
		text += fmt.Sprintf("\n[... %d bytes are left out ...]\n", missing)
	}
	return strings.ToValidUTF8(text+string(tail), "\uFFFD"), b.total
}
