package control

import "context"

// RunScript implements Commands.
func (c *Client) RunScript(ctx context.Context, o Origin, r ScriptRequest) (ScriptResult, error) {
	return call[ScriptResult](ctx, c, "RunScript", &o, r)
}

// CallHTTP implements Commands.
func (c *Client) CallHTTP(ctx context.Context, o Origin, r CallRequest) (CallResult, error) {
	return call[CallResult](ctx, c, "CallHTTP", &o, r)
}
