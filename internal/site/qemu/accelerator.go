package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Accelerator returns what machines of this datastore run with, "kvm" or "tcg",
// and why. The first call, and the first after a change of the host's kernel or
// of QEMU, proves it by starting guests, which can take 25 s.
func (d *Driver) Accelerator(ctx context.Context) (accel, reason string, err error) {
	if accel, err = d.accelerator(ctx); err != nil {
		return "", "", err
	}
	if d.cfg.Accel != "" {
		return accel, "as configured", nil
	}
	text, err := os.ReadFile(filepath.Join(d.cfg.Dir, "accel.json"))
	if err != nil {
		return "", "", fmt.Errorf("read why %s was chosen: %w", accel, err)
	}
	var proof accelProof
	if err := json.Unmarshal(text, &proof); err != nil {
		return "", "", fmt.Errorf("read why %s was chosen: %w", accel, err)
	}
	return accel, proof.Reason, nil
}
