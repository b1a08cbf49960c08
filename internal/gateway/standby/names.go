package standby

import (
	"sync"

	"rebound/internal/dr"
)

// nameLocks are locks by a machine's name: two commands for one machine come
// after one another, those for different machines go on at the same time.
type nameLocks struct {
	mu   sync.Mutex
	held map[dr.MachineName]*sync.Mutex
}

func (n *nameLocks) lock(name dr.MachineName) (unlock func()) {
	n.mu.Lock()
	if n.held == nil {
		n.held = map[dr.MachineName]*sync.Mutex{}
	}
	l := n.held[name]
	if l == nil {
		l = &sync.Mutex{}
		n.held[name] = l
	}
	n.mu.Unlock()
	l.Lock()
	return l.Unlock
}
