package orchestrator

import (
	"fmt"
	"math"
	"time"

	"rebound/internal/dr"
)

// What a dry run and a job say is read by people at night: numbers have the
// precision that a decision needs.

// span writes a time that is lost, in seconds, rounded up, so that it never says
// less than the truth: to a tenth of a second below a minute, above it to seconds.
func span(seconds float64) string {
	if seconds < 60 {
		return fmt.Sprintf("%.1f s", math.Ceil(seconds*10)/10)
	}
	return (time.Duration(math.Ceil(seconds)) * time.Second).String()
}

// namePoints says how many points a list, oldest first, has and what time they
// cover, in UTC.
func namePoints(list []dr.Point) string {
	at := func(i int) string { return list[i].Time.UTC().Format(time.RFC3339) }
	switch n := len(list); n {
	case 0:
		return "0 recovery points"
	case 1:
		return "1 recovery point, of " + at(0)
	default:
		return fmt.Sprintf("%d recovery points, from %s to %s", n, at(0), at(n-1))
	}
}
