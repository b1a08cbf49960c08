package link

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"rebound/internal/dr"
)

func schedule(t *testing.T, b dr.Bandwidth) dr.BandwidthSchedule {
	t.Helper()
	s, err := b.Parse()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestThrottleKeepsTheRate: whatever the sizes of the frames are, the bytes of a
// stretch are those of the limit.
func TestThrottleKeepsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		th.Set(schedule(t, "1MB"))
		begin := time.Now()
		sent := 0
		for i := 0; time.Since(begin) < time.Minute; i++ {
			n := 1000
			if i%100 == 0 {
				n = 1 << 20
			}
			if err := th.Wait(context.Background(), n); err != nil {
				t.Fatal(err)
			}
			sent += n
		}
		if want := 60_000_000; sent < want*97/100 || sent > want*103/100 {
			t.Errorf("%d bytes in a minute, want about %d", sent, want)
		}
	})
}

// TestThrottleFollowsTheSchedule: a limit that ends lets who waits go, and so
// does a new schedule; the end of the context ends a wait.
func TestThrottleFollowsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		now := time.Now()
		ends := now.Add(10 * time.Minute).Truncate(time.Minute)
		th.Set(schedule(t, dr.Bandwidth(now.Format("15:04")+"-"+ends.Format("15:04")+" 64KB")))
		send := func(ctx context.Context, n int) time.Duration {
			begin := time.Now()
			if err := th.Wait(ctx, n); err != nil {
				t.Fatal(err)
			}
			return time.Since(begin)
		}
		send(context.Background(), 64_000*3600) // an hour's worth
		if d := send(context.Background(), 1); time.Now().Before(ends) || time.Now().After(ends.Add(time.Second)) {
			t.Errorf("waited %v, until %v; the limit ended at %v", d, time.Now(), ends)
		}
		th.Set(schedule(t, "64KB"))
		send(context.Background(), 64_000*3600)
		go func() {
			time.Sleep(5 * time.Second)
			th.Set(nil)
		}()
		if d := send(context.Background(), 1); d > 6*time.Second {
			t.Errorf("waited %v for a limit that was lifted after 5 s", d)
		}
		th.Set(schedule(t, "64KB"))
		send(context.Background(), 64_000*3600)
		why := errors.New("why")
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, why)
		defer cancel()
		if err := th.Wait(ctx, 1); !errors.Is(err, why) {
			t.Errorf("ended with %v", err)
		}
	})
}
