package auth

import (
	"sync"
	"time"
)

// Limit is how often somebody may fail.
type Limit struct {
	// Free failures cost nothing; each further one doubles the pause, from
	// First to Longest. After Forget without a failure all is as new.
	Free           int
	First, Longest time.Duration
	Forget         time.Duration
}

// The limits. Guesses are counted by address, by name from an address, and by
// name from everywhere: the last one, so that many addresses do not help, with
// short pauses, so that a stranger cannot lock a user out for long.
func byAddress() Limit {
	return Limit{Free: 20, First: time.Second, Longest: 15 * time.Minute, Forget: time.Hour}
}

func byNameAndAddress() Limit {
	return Limit{Free: 5, First: time.Second, Longest: 15 * time.Minute, Forget: time.Hour}
}

func byName() Limit {
	return Limit{Free: 50, First: time.Second, Longest: 30 * time.Second, Forget: time.Hour}
}

// maxTracked bounds the memory of a Limiter.
const maxTracked = 20_000

// Limiter counts failures. Safe for use by several goroutines.
type Limiter struct {
	now func() time.Time

	mu    sync.Mutex
	fails map[string]*failures
}

type failures struct {
	limit Limit
	n     int
	last  time.Time
	until time.Time
}

// NewLimiter returns a limiter on a clock.
func NewLimiter(now func() time.Time) *Limiter {
	return &Limiter{now: now, fails: map[string]*failures{}}
}

// Guess is one attempt, with what it is counted by.
type Guess struct{ by map[string]Limit }

// GuessOf is an attempt at a name from an address, by a way (such as "login").
func GuessOf(way, name, address string) Guess {
	return Guess{map[string]Limit{
		way + "\x00a\x00" + address:                 byAddress(),
		way + "\x00b\x00" + name + "\x00" + address: byNameAndAddress(),
		way + "\x00n\x00" + name:                    byName(),
	}}
}

// Begin takes an attempt in. It returns how long the caller has to wait, or 0
// and counts the attempt as a failure until Right is told. So attempts that run
// at the same time count too.
func (l *Limiter) Begin(g Guess) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	var wait time.Duration
	for key := range g.by {
		if f := l.fails[key]; f != nil {
			if now.Sub(f.last) > f.limit.Forget {
				delete(l.fails, key)
				continue
			}
			wait = max(wait, f.until.Sub(now))
		}
	}
	if wait > 0 {
		return wait
	}
	for key, limit := range g.by {
		f := l.fails[key]
		if f == nil {
			l.makeRoom(now)
			f = &failures{limit: limit}
			l.fails[key] = f
		}
		f.fail(now)
	}
	return 0
}

func (f *failures) fail(now time.Time) {
	f.n++
	f.last = now
	if f.n < f.limit.Free {
		return
	}
	pause := f.limit.First
	for i := f.limit.Free; i < f.n && pause < f.limit.Longest; i++ {
		pause *= 2
	}
	f.until = now.Add(min(pause, f.limit.Longest))
}

// Right takes a right attempt back, and forgets the failures of its name from
// its address.
func (l *Limiter) Right(g Guess) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, limit := range g.by {
		f := l.fails[key]
		if f == nil {
			continue
		}
		if limit == byNameAndAddress() || f.n <= 1 {
			delete(l.fails, key)
			continue
		}
		f.n--
		f.until = time.Time{}
	}
}

// makeRoom drops what is forgotten and, when that is not enough, a tenth of the
// rest: first of those who need not wait.
func (l *Limiter) makeRoom(now time.Time) {
	if len(l.fails) < maxTracked {
		return
	}
	drop := func(which func(*failures) bool) {
		for key, f := range l.fails {
			if len(l.fails) > maxTracked*9/10 && which(f) {
				delete(l.fails, key)
			}
		}
	}
	drop(func(f *failures) bool { return now.Sub(f.last) > f.limit.Forget })
	drop(func(f *failures) bool { return !f.until.After(now) })
	drop(func(*failures) bool { return true })
}
