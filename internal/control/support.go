package control

import "context"

// SupportCommands help to find faults.
type SupportCommands interface {
	// Support returns what the gateway can tell of itself: recent log lines,
	// state files, journals, metrics, the host. It changes nothing, and
	// secrets are left out.
	Support(ctx context.Context) (SupportFiles, error)
}

// SupportFiles are files of a support bundle.
type SupportFiles struct {
	Files []SupportFile `json:"files"`
}

// SupportFile is one of them; Name is a relative path.
type SupportFile struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// Support implements Commands.
func (c *Client) Support(ctx context.Context) (SupportFiles, error) {
	return call[SupportFiles](ctx, c, "Support", nil, struct{}{})
}
