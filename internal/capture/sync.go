package capture

import (
	"context"
	"sync"

	"rebound/internal/problem"
)

// syncRun is a running synchronisation.
type syncRun struct {
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	st     SyncStatus
}

func (r *syncRun) status() SyncStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.st
}
func (g *group) startSync(r SyncRequest) error { return problem.New(problem.InvalidRequest, "todo") }
func (g *group) cancelSync()                   {}
