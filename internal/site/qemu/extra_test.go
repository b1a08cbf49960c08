package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"rebound/internal/site"
)

// TestAddedDiskIsSeen adds disks to a machine that is captured, as an operator does
// over another monitor: a writable one is seen, read-only ones and drives for media
// are not, and it is gone once it was taken out.
func TestAddedDiskIsSeen(t *testing.T) {
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rbadd") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := openDriver(t, dir)
	ctx := testContext(t)
	def := tiny("web", 1)
	def.Disks[0].Bus = "scsi"
	must(t, d.Create(ctx, def))
	extra, err := d.ExtraDisks(ctx, "web")
	must(t, err)
	if len(extra) != 0 {
		t.Fatalf("a machine that is off has %+v", extra)
	}
	must(t, d.Start(ctx, "web", site.StartOptions{Paused: true}))
	socket := filepath.Join(dir, "cap.sock")
	startRecorder(t, socket, 1, def.Disks[0].SizeBytes)
	must(t, d.Attach(ctx, "web", targetsAt(socket, 1)))
	c, err := d.glance(ctx, "web")
	must(t, err)
	for _, x := range []object{
		{"driver": "null-co", "node-name": "n1", "size": 5 << 20},
		{"driver": "null-co", "node-name": "n2", "size": 1 << 20, "read-only": true},
		{"driver": "null-co", "node-name": "n3", "size": 1 << 20, "read-only": true},
	} {
		must(t, c.mon.Run(ctx, "blockdev-add", x, nil))
	}
	for _, x := range []object{
		{"driver": "scsi-hd", "id": "readonly", "drive": "n2", "bus": "scsi.0"},
		{"driver": "scsi-cd", "id": "media", "drive": "n3", "bus": "scsi.0"},
	} {
		must(t, c.mon.Run(ctx, "device_add", x, nil))
	}
	if extra, err = d.ExtraDisks(ctx, "web"); err != nil || len(extra) != 0 {
		t.Fatalf("before: %+v, %v", extra, err)
	}
	must(t, c.mon.Run(ctx, "device_add", object{"driver": "scsi-hd", "id": "more", "drive": "n1", "bus": "scsi.0"}, nil))
	extra, err = d.ExtraDisks(ctx, "web")
	must(t, err)
	if len(extra) != 1 || extra[0] != (site.ExtraDisk{Name: "more", SizeBytes: 5 << 20}) {
		t.Fatalf("after: %+v", extra)
	}
	wantAttached(t, d, true)
	must(t, c.mon.Run(ctx, "device_del", object{"id": "more"}, nil))
	for {
		if extra, err = d.ExtraDisks(ctx, "web"); err != nil || len(extra) == 0 {
			break
		}
		must(t, ctx.Err())
	}
	must(t, err)
}
