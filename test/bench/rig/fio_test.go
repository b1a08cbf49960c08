package rig

import (
	"slices"
	"testing"
	"time"
)

const fioReport = `fio: a warning
{"jobs":[{"error":0,"read":{"io_bytes":0},"write":{"iops":1000.5,"bw_bytes":4096000,"io_bytes":8192000,"runtime":2000,
"clat_ns":{"percentile":{"50.000000":51000,"99.000000":990000}}}}]}`

func TestParseFio(t *testing.T) {
	got, err := parseFio([]byte(fioReport), false)
	want := Result{IOPS: 1000.5, Bytes: 4096000, Total: 8192000, Runtime: 2 * time.Second, P50: 51 * time.Microsecond, P99: 990 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for name, in := range map[string]string{
		"nothing": "", "no job": `{"jobs":[]}`, "an error": `{"jobs":[{"error":5,"write":{"io_bytes":1}}]}`, "no write": `{"jobs":[{}]}`,
	} {
		if r, err := parseFio([]byte(in), false); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestLoadArgs(t *testing.T) {
	a := Load{Block: "64k", Depth: 8, Seconds: 3, Fresh: true, Bytes: 5000}.args([]string{"u0", "u1"})
	for _, want := range []string{"--bs=64k", "--iodepth=8", "--runtime=3", "--refill_buffers", "--rate=5000", "--uri=u0", "--uri=u1", "--rw=randwrite"} {
		if !slices.Contains(a, want) {
			t.Errorf("%s is missing in %v", want, a)
		}
	}
}
