package gateway

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rebound/internal/site"
)

// Many who watch one console cost the machine one look a second; a look that
// failed is not kept.
func TestConsoleShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c consoles
		var taken atomic.Int32
		look := func(fail error) error {
			l := c.join("web", func() (site.ConsoleView, error) {
				taken.Add(1)
				time.Sleep(300 * time.Millisecond)
				return site.ConsoleView{Text: "up"}, fail
			})
			<-l.done
			return l.err
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _ = look(nil) })
		}
		wg.Wait()
		time.Sleep(consoleFresh / 2)
		_ = look(nil)
		if n := taken.Load(); n != 1 {
			t.Errorf("11 who watched took %d looks", n)
		}
		time.Sleep(consoleFresh)
		if err := look(errors.New("gone")); err == nil || taken.Load() != 2 {
			t.Errorf("the next second: %v, %d looks", err, taken.Load())
		}
		if err := look(nil); err != nil || taken.Load() != 3 {
			t.Errorf("a look that failed was kept: %v, %d looks", err, taken.Load())
		}
		c.join("db", func() (site.ConsoleView, error) { return site.ConsoleView{}, nil })
		time.Sleep(2 * consoleFresh)
		synctest.Wait()
		c.join("app", func() (site.ConsoleView, error) { return site.ConsoleView{}, nil })
		if len(c.last) != 1 {
			t.Errorf("%d looks are kept", len(c.last))
		}
		synctest.Wait()
	})
}
