package orchestrator

import (
	"testing"
	"time"

	"rebound/internal/dr"
)

func TestSpan(t *testing.T) {
	for seconds, want := range map[float64]string{
		0: "0.0 s", 0.028: "0.1 s", 0.26: "0.3 s", 12.34: "12.4 s", 61.2: "1m2s", 7200: "2h0m0s",
	} {
		if got := span(seconds); got != want {
			t.Errorf("%v seconds are written %q, want %q", seconds, got, want)
		}
	}
}

func TestNamePoints(t *testing.T) {
	at := func(s int64) dr.Point { return dr.Point{Time: time.Unix(s, 0)} }
	for want, list := range map[string][]dr.Point{
		"0 recovery points":                                                    nil,
		"1 recovery point, of 1970-01-01T00:00:01Z":                            {at(1)},
		"2 recovery points, from 1970-01-01T00:00:01Z to 1970-01-01T00:00:09Z": {at(1), at(9)},
	} {
		if got := namePoints(list); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
