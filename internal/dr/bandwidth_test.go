package dr

import (
	"testing"
	"time"
)

func TestBandwidthAt(t *testing.T) {
	monday := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	at := func(day, hour, minute int) time.Time {
		return monday.AddDate(0, 0, day).Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
	}
	office := Bandwidth("mon-fri 08:00-18:00 10MB, 100MB")
	night := Bandwidth("fri 22:00-06:00 0, 20Mbit")
	for _, c := range []struct {
		b    Bandwidth
		when time.Time
		want int64
	}{
		{"", at(0, 12, 0), 0},
		{office, at(0, 7, 59), 100e6},
		{office, at(0, 8, 0), 10e6},
		{office, at(4, 17, 59), 10e6},
		{office, at(4, 18, 0), 100e6},
		{office, at(5, 12, 0), 100e6},
		{night, at(4, 21, 59), 2.5e6},
		{night, at(4, 22, 0), 0},
		{night, at(5, 5, 59), 0},
		{night, at(5, 6, 0), 2.5e6},
		{night, at(4, 5, 0), 2.5e6}, // the night before friday
		{"sat-mon 64KB", at(6, 3, 0), 64000},
		{"sat-mon 64KB", at(0, 3, 0), 64000},
		{"sat-mon 64KB", at(1, 3, 0), 0},
		{"00:00-24:00 1.5GB/s", at(1, 3, 0), 1.5e9},
		{"tue 8Mbit", at(1, 23, 59), 1e6},
	} {
		s, err := c.b.Parse()
		if err != nil {
			t.Errorf("%q: %v", c.b, err)
			continue
		}
		if got := s.At(c.when); got != c.want {
			t.Errorf("%q at %s: %d, want %d", c.b, c.when.Format("Mon 15:04"), got, c.want)
		}
	}
}

func TestBandwidthRefused(t *testing.T) {
	for _, b := range []Bandwidth{
		"10", "fast", "-1MB", "10MB,", "mon 25:00-26:00 1MB", "08:00 1MB", "xyz 1MB", "mon tue 08:00-09:00 1MB", "1KB", "1MiB", "9e99GB", "NaNMB",
	} {
		if _, err := b.Parse(); err == nil {
			t.Errorf("%q was taken", b)
		}
	}
}
