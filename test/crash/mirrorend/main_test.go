package main

import (
	"context"
	"os/exec"
	"testing"
	"time"
)

// TestOurEndsNeverHarm runs the ways of ending that the driver uses, shortly,
// with a slow disk too: there the other ways die in their first round.
func TestOurEndsNeverHarm(t *testing.T) {
	for _, tool := range []string{"qemu-system-x86_64", "fio"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	byName := map[string]end{}
	for _, e := range ends() {
		byName[e.name] = e
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, source := range []time.Duration{0, 200 * time.Millisecond} {
		for _, name := range []string{"cancel", "stop-close"} {
			tr := trial{Host: system, End: name, Load: load{Block: "4k", Depth: 4}, Disks: 1, SlowSource: source}
			o := tr.run(ctx, byName[name], 1<<30, 2*time.Second, false)
			if o.Crashed || o.GuestError || o.Rounds == 0 {
				t.Errorf("%+v", o)
			}
		}
	}
}
