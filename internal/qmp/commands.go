package qmp

import "context"

// Action is one action of a transaction.
type Action struct {
	Type string `json:"type"`
	Data any    `json:"data"`
}

// Transaction runs the actions atomically: all or none.
func Transaction(ctx context.Context, r Runner, actions ...Action) error {
	args := struct {
		Actions []Action `json:"actions"`
	}{actions}
	return r.Run(ctx, "transaction", args, nil)
}

// HMP runs a line of the human monitor and returns what it printed. QEMU
// reports errors of such a line as text only.
func HMP(ctx context.Context, r Runner, line string) (string, error) {
	args := struct {
		Line string `json:"command-line"`
	}{line}
	return Call[string](ctx, r, "human-monitor-command", args)
}

// YankInstance names a connection that can be yanked: a block node
// ("block-node" with NodeName), a character device ("chardev" with ID) or the
// migration.
type YankInstance struct {
	Type     string `json:"type"`
	NodeName string `json:"node-name,omitempty"`
	ID       string `json:"id,omitempty"`
}

// OOBRunner runs commands out of band: a Client or a Monitor.
type OOBRunner interface {
	RunOOB(ctx context.Context, command string, args, result any) error
}

// QueryYank lists what can be yanked.
func QueryYank(ctx context.Context, r OOBRunner) ([]YankInstance, error) {
	var list []YankInstance
	err := r.RunOOB(ctx, "query-yank", nil, &list)
	return list, err
}

// Yank shuts the named connections down without asking their peers, so that
// whatever in QEMU waits for them fails and goes on.
func Yank(ctx context.Context, r OOBRunner, instances ...YankInstance) error {
	args := struct {
		Instances []YankInstance `json:"instances"`
	}{instances}
	return r.RunOOB(ctx, "yank", args, nil)
}
