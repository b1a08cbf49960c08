package controltest

import (
	"context"

	"rebound/internal/control"
)

// Support implements control.Commands.
func (g *Gateway) Support(ctx context.Context) (control.SupportFiles, error) {
	if _, err := g.strike(ctx, "Support", ""); err != nil {
		return control.SupportFiles{}, err
	}
	return control.SupportFiles{Files: []control.SupportFile{{Name: "log.jsonl", Data: []byte(`{"gateway":"` + string(g.id) + "\"}\n")}}}, nil
}
