package capture

import (
	"bytes"
	"testing"

	"rebound/internal/problem"
)

// TestCompressionChangesWithinAnEpoch: another compression takes effect with
// the next frame, and the stream does not break for it.
func TestCompressionChangesWithinAnEpoch(t *testing.T) {
	r := newRig(t, 1, Limits{})
	disk := r.disk(0)
	r.open()
	epoch := r.status().Head.Epoch
	block := bytes.Repeat([]byte("rebound "), 64<<10/8)
	// ship writes the block a few times and returns how much of its size the
	// frames came to.
	ship := func() float64 {
		before := r.status()
		for i := range 8 {
			if err := disk.WriteAt(r.ctx(), block, int64(i*len(block))); err != nil {
				t.Fatal(err)
			}
		}
		r.await("everything is durable", func(s Status) bool { return s.Durable >= before.Head.Seq+8 })
		sent := r.status().Counters.CompressedBytes - before.Counters.CompressedBytes
		return float64(sent) / float64(8*len(block))
	}
	if share := ship(); share < 1 {
		t.Errorf("uncompressed frames came to %.2f of what was written", share)
	}
	for _, step := range []struct {
		codec    string
		min, max float64
	}{{"s2", 0, 0.5}, {"none", 1, 1.1}} {
		r.config.Compression = step.codec
		if err := r.client.Configure(r.ctx(), r.config); err != nil {
			t.Fatalf("change to %s: %v", step.codec, err)
		}
		if share := ship(); share < step.min || share > step.max {
			t.Errorf("with %s the frames came to %.2f of what was written", step.codec, share)
		}
	}
	if st := r.status(); st.State != StateOpen || st.Head.Epoch != epoch {
		t.Errorf("the stream is %s in epoch %d, began in %d", st.State, st.Head.Epoch, epoch)
	}
}

// TestBandwidthWithinAnEpoch: the limit holds the stream back, and lifting it
// lets it go, without a break.
func TestBandwidthWithinAnEpoch(t *testing.T) {
	r := newRig(t, 1, Limits{})
	c := r.disk(0)
	r.config.Bandwidth = "64KB" // 8 MiB would take two minutes
	if err := r.client.Configure(r.ctx(), r.config); err != nil {
		t.Fatal(err)
	}
	r.open()
	for i := range 128 {
		if err := c.WriteAt(bg(), pattern(i, 65536), 0); err != nil {
			t.Fatal(err)
		}
	}
	if st := r.status(); st.Durable >= st.Head.Seq {
		t.Errorf("the limit held nothing back: %d of %d entries arrived", st.Durable, st.Head.Seq)
	}
	r.config.Bandwidth = ""
	if err := r.client.Configure(r.ctx(), r.config); err != nil {
		t.Fatal(err)
	}
	if at, err := r.client.Drain(r.ctx()); err != nil || at.Epoch != 1 {
		t.Errorf("drained at %v: %v", at, err)
	}
	r.config.Bandwidth = "fast"
	if err := r.client.Configure(r.ctx(), r.config); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("a bandwidth that cannot be read: %v", err)
	}
}
