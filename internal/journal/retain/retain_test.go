package retain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"rebound/internal/dr"
)

var start = time.Date(2026, 3, 1, 0, 7, 0, 0, time.UTC)

func point(i int, t time.Time, kind dr.PointKind) dr.Point {
	return dr.Point{ID: dr.PointID(fmt.Sprintf("p%06d", i)), Kind: kind, Position: dr.Position{Generation: 1, Epoch: 1, Seq: dr.Seq(i + 1)}, Time: t}
}

// series is one point every step from start on; each app-th is
// application-consistent.
func series(n int, step time.Duration, app int) []dr.Point {
	var out []dr.Point
	for i := range n {
		kind := dr.CrashConsistent
		if app > 0 && i%app == app-1 {
			kind = dr.AppConsistent
		}
		out = append(out, point(i, start.Add(time.Duration(i)*step), kind))
	}
	return out
}

// TestLadder counts what the default ladder keeps of a point every five minutes.
func TestLadder(t *testing.T) {
	const window = 2 * time.Hour
	for _, c := range []struct {
		retention time.Duration
		low, high int // how many are kept
	}{
		{0, 24, 24},
		{Day, 24 + 22, 24 + 24},
		{3 * Day, 24 + 35, 24 + 37},
		{7 * Day, 24 + 83, 24 + 85},
		{15 * Day, 24 + 83 + 48, 24 + 86 + 50},
		{30 * Day, 24 + 83 + 138, 24 + 86 + 140},
	} {
		p := Policy{Window: window, Ladder: Ladder(window, c.retention)}
		if !p.Valid() {
			t.Fatalf("%v: %+v is not valid", c.retention, p)
		}
		list := series(40*288, 5*time.Minute, 12)
		now := list[len(list)-1].Time
		got := Apply(list, p, now, nil)
		if n := len(got.Keep); n < c.low || n > c.high {
			t.Errorf("retention %v keeps %d, want %d to %d", c.retention, n, c.low, c.high)
		}
		if len(got.Keep)+len(got.Drop) != len(list) {
			t.Errorf("retention %v: %d kept and %d dropped of %d", c.retention, len(got.Keep), len(got.Drop), len(list))
		}
		oldest := max(c.retention, window)
		if age := now.Sub(got.Keep[0].Time); age > oldest+4*time.Hour || age < oldest-4*time.Hour {
			t.Errorf("retention %v: the oldest is %v old", c.retention, age)
		}
		for _, pt := range got.Keep {
			if now.Sub(pt.Time) >= window+2*time.Hour && pt.Kind != dr.AppConsistent {
				t.Fatalf("retention %v keeps %v, which is not application-consistent", c.retention, pt)
			}
		}
	}
}

// world is points and pins at random.
type world struct {
	r      *rand.Rand
	points []dr.Point
	policy Policy
	pinned []dr.Position
	now    time.Time
}

func newWorld(seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 3)), now: start}
	w.policy.Window = time.Duration(w.r.Int64N(int64(4 * time.Hour)))
	switch w.r.IntN(3) {
	case 0:
		w.policy.Ladder = Ladder(w.policy.Window, time.Duration(w.r.Int64N(int64(31*Day))))
	default:
		every, last := time.Duration(1+w.r.IntN(5))*13*time.Minute, w.policy.Window
		for range w.r.IntN(4) {
			last += time.Duration(1 + w.r.Int64N(int64(2*Day)))
			w.policy.Ladder = append(w.policy.Ladder, Rung{every, last})
			every *= time.Duration(1 + w.r.IntN(3))
		}
	}
	return w
}

// live adds points for a while.
func (w *world) live() {
	for range w.r.IntN(60) {
		w.now = w.now.Add(time.Duration(w.r.Int64N(int64(40 * time.Minute))))
		kind := []dr.PointKind{dr.CrashConsistent, dr.CrashConsistent, dr.CrashConsistent, dr.AppConsistent, dr.Bookmark}[w.r.IntN(5)]
		n := 0
		if len(w.points) > 0 {
			n = int(w.points[len(w.points)-1].Position.Seq)
		}
		w.points = append(w.points, point(n, w.now, kind))
	}
	w.now = w.now.Add(time.Duration(w.r.Int64N(int64(time.Hour))))
	if len(w.points) > 0 && w.r.IntN(3) == 0 {
		w.pinned = append(w.pinned, w.points[w.r.IntN(len(w.points))].Position)
	}
}

func ids(list []dr.Point) map[dr.PointID]bool {
	out := map[dr.PointID]bool{}
	for _, p := range list {
		out[p.ID] = true
	}
	return out
}

// TestProperties: over random lives, what the package promises.
func TestProperties(t *testing.T) {
	base := uint64(time.Now().UnixNano())
	t.Logf("seed %d", base)
	dropped := 0
	for k := range uint64(400) {
		w := newWorld(base + k)
		if !w.policy.Valid() {
			t.Fatalf("seed %d: policy %+v", base+k, w.policy)
		}
		gone := map[dr.PointID]bool{}
		for range 12 {
			w.live()
			if len(w.points) == 0 {
				continue
			}
			plan := Apply(w.points, w.policy, w.now, w.pinned)
			dropped += len(plan.Drop)
			w.check(t, base+k, plan)
			for _, p := range plan.Keep {
				if gone[p.ID] && !slices.Contains(w.pinned, p.Position) {
					t.Fatalf("seed %d: %v was dropped before and is asked for again", base+k, p)
				}
			}
			for _, p := range plan.Drop {
				gone[p.ID] = true
			}
			if w.r.IntN(2) == 0 { // and once in a while the plan is carried out
				w.points = plan.Keep
			}
		}
	}
	if dropped < 1000 {
		t.Fatalf("only %d points were dropped: nothing was tested", dropped)
	}
}

func (w *world) check(t *testing.T, seed uint64, plan Plan) {
	t.Helper()
	kept := ids(plan.Keep)
	newest := w.points[len(w.points)-1]
	if !kept[newest.ID] {
		t.Fatalf("seed %d: the newest point %v is dropped", seed, newest)
	}
	oldest := w.policy.Window
	if n := len(w.policy.Ladder); n > 0 {
		oldest = w.policy.Ladder[n-1].For
	}
	for _, p := range w.points {
		age := w.now.Sub(p.Time)
		if !kept[p.ID] && (age < w.policy.Window || slices.Contains(w.pinned, p.Position) || (p.Kind == dr.Bookmark && age <= oldest)) {
			t.Fatalf("seed %d: %v is dropped at the age of %v (policy %+v, pins %v)", seed, p, age, w.policy, w.pinned)
		}
	}
	again := Apply(plan.Keep, w.policy, w.now, w.pinned)
	if len(again.Drop) != 0 {
		t.Fatalf("seed %d: of what is kept, %v is dropped the second time", seed, again.Drop)
	}
	shuffled := slices.Clone(w.points)
	w.r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if got := Apply(shuffled, w.policy, w.now, w.pinned); !slices.Equal(got.Keep, plan.Keep) {
		t.Fatalf("seed %d: the order of the points matters", seed)
	}
}

// TestNothingNewComes: with now standing still, nothing that is there goes.
func TestNothingNewComes(t *testing.T) {
	list := series(100, 5*time.Minute, 0)
	p := Policy{Window: 2 * time.Hour, Ladder: Ladder(2*time.Hour, Day)}
	now := list[len(list)-1].Time
	first := Apply(list, p, now, nil)
	if again := Apply(first.Keep, p, now, nil); len(again.Drop) != 0 {
		t.Errorf("dropped %v", again.Drop)
	}
	// And years later, by a clock that went on alone, the newest is there.
	if late := Apply(list, p, now.Add(1000*Day), nil); len(late.Keep) != 1 || late.Keep[0].ID != list[99].ID {
		t.Errorf("kept %v", late.Keep)
	}
}

func TestValid(t *testing.T) {
	for i, p := range []Policy{
		{Window: -1},
		{Window: time.Hour, Ladder: []Rung{{time.Hour, time.Hour}}},
		{Ladder: []Rung{{0, time.Hour}}},
		{Ladder: []Rung{{2 * time.Hour, Day}, {3 * time.Hour, 2 * Day}}},
		{Ladder: []Rung{{time.Hour, 31 * Day}}},
		{Ladder: []Rung{{time.Hour, 2 * Day}, {time.Hour, Day}}},
	} {
		if p.Valid() {
			t.Errorf("%d: %+v is taken", i, p)
		}
	}
}
