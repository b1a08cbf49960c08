package control

import (
	"context"

	"rebound/internal/dr"
	"rebound/internal/site"
)

// ConsoleCommands look at what machines show.
type ConsoleCommands interface {
	// Console shows the display and the serial console of a machine of the
	// site. It changes nothing, and several who look at one machine within
	// a second see the same picture. A site that cannot show consoles is
	// ConsoleUnavailable, a machine that does not run MachineNotRunning.
	Console(ctx context.Context, r ConsoleRequest) (site.ConsoleView, error)
}

// ConsoleRequest names a machine of the site.
type ConsoleRequest struct {
	Machine dr.MachineName `json:"machine"`
}

// Console implements Commands.
func (c *Client) Console(ctx context.Context, r ConsoleRequest) (site.ConsoleView, error) {
	return call[site.ConsoleView](ctx, c, "Console", nil, r)
}
