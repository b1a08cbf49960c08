package gateway_test

import (
	"sync"
	"testing"
)

// TestTenRestartsAtEachEnd restarts the gateways of both ends in turn while the
// guests write: the stream stays the same one, and nothing is missing.
func TestTenRestartsAtEachEnd(t *testing.T) {
	w := protect(t)
	w.upToDate(w.home, w.cloud)
	before := w.captureStatus(w.home)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	rounds := 0
	writing.Go(func() {
		for i := int64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			w.write(w.home, w.disks[i%int64(len(w.disks))], (i%200)*4096, 4096)
			rounds++
		}
	})
	for i := range 10 {
		w.home.closeSource()
		w.home.openSource()
		if i%2 == 0 { // else the next one comes while this one is still adopting
			w.streams(w.home)
		}
		w.cloud.closeHost()
		w.cloud.openHost()
	}
	close(stop)
	writing.Wait()
	w.streams(w.home)
	after := w.captureStatus(w.home)
	if before.PID != after.PID || before.Head.Epoch != after.Head.Epoch {
		t.Errorf("process %d epoch %d before, %d and %d after", before.PID, before.Head.Epoch, after.PID, after.Head.Epoch)
	}
	if rounds < 10 {
		t.Errorf("only %d writes were made", rounds)
	}
	t.Logf("%d writes during the restarts", rounds)
	w.upToDate(w.home, w.cloud)
	res, err := w.home.src.Verify(w.ctx)
	if err != nil || res.Differing != 0 || res.Bytes == 0 {
		t.Errorf("verify: %+v, %v", res, err)
	}
}
