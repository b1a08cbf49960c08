package dr

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bandwidth limits what a group's stream may take of the link, by a schedule:
// rules separated by commas, each "[days] [from-to] rate". The first rule that
// holds at a moment counts; where none holds, and when empty, there is no limit.
//
//	"mon-fri 08:00-18:00 10MB, 100MB"   10 MB/s in office hours, else 100 MB/s
//	"22:00-06:00 0, 20Mbit"             at night without limit, else 20 Mbit/s
//
// Days are mon to sun, alone or from-to. Times are of the clock and zone of the
// source gateway; a stretch that ends before it begins goes past midnight and
// belongs to the day on which it begins. A rate is a number of bytes a second with
// the unit B, KB, MB or GB (powers of 1000), or of bits with Kbit, Mbit or Gbit;
// 0 means no limit, else it is at least 64 KB a second.
type Bandwidth string

// MinBandwidth is the smallest limit, in bytes a second: below it the beacons of
// an idle stream alone would fall behind.
const MinBandwidth = 64_000

// BandwidthSchedule is a Bandwidth that was read.
type BandwidthSchedule []bandwidthRule

type bandwidthRule struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes of the day; equal: all day
	rate     int64   // bytes a second; 0: no limit
}

// Parse reads the schedule.
func (b Bandwidth) Parse() (BandwidthSchedule, error) {
	if strings.TrimSpace(string(b)) == "" {
		return nil, nil
	}
	var out BandwidthSchedule
	for text := range strings.SplitSeq(string(b), ",") {
		r, err := parseBandwidthRule(strings.Fields(text))
		if err != nil {
			return nil, fmt.Errorf("bandwidth %q: %w", strings.TrimSpace(text), err)
		}
		out = append(out, r)
	}
	return out, nil
}

func parseBandwidthRule(words []string) (r bandwidthRule, err error) {
	if len(words) == 0 || len(words) > 3 {
		return r, fmt.Errorf("want [days] [from-to] rate")
	}
	if r.rate, err = parseRate(words[len(words)-1]); err != nil {
		return r, err
	}
	words = words[:len(words)-1]
	days := "mon-sun"
	if len(words) > 0 && !strings.Contains(words[0], ":") {
		days, words = words[0], words[1:]
	}
	if r.days, err = parseDays(days); err != nil {
		return r, err
	}
	if len(words) == 0 {
		return r, nil
	}
	from, to, ok := strings.Cut(words[0], "-")
	if !ok || len(words) > 1 {
		return r, fmt.Errorf("%q: want from-to, such as 08:00-18:00", strings.Join(words, " "))
	}
	if r.from, err = parseMinute(from); err == nil {
		r.to, err = parseMinute(to)
	}
	return r, err
}

func parseDays(s string) (days [7]bool, err error) {
	first, last, ok := strings.Cut(strings.ToLower(s), "-")
	if !ok {
		last = first
	}
	from, err := parseDay(first)
	if err != nil {
		return days, err
	}
	to, err := parseDay(last)
	if err != nil {
		return days, err
	}
	for d := from; ; d = (d + 1) % 7 {
		days[d] = true
		if d == to {
			return days, nil
		}
	}
}

func parseDay(s string) (time.Weekday, error) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if s == strings.ToLower(d.String()[:3]) {
			return d, nil
		}
	}
	return 0, fmt.Errorf("%q is no day: want mon to sun", s)
}

func parseMinute(s string) (int, error) {
	if s == "24:00" {
		return 0, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is no time: want 00:00 to 24:00", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

func parseRate(s string) (int64, error) {
	number := strings.TrimRight(s, "BKMGbit/s")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0) {
		return 0, fmt.Errorf("%q is no rate: want a number with B, KB, MB, GB, Kbit, Mbit or Gbit", s)
	}
	if n == 0 {
		return 0, nil
	}
	factor, ok := map[string]float64{
		"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "Kbit": 125, "Mbit": 125e3, "Gbit": 125e6,
	}[strings.TrimSuffix(s[len(number):], "/s")]
	if !ok {
		return 0, fmt.Errorf("%q is no rate: want a number with B, KB, MB, GB, Kbit, Mbit or Gbit", s)
	}
	if n *= factor; n < MinBandwidth || n > 1e15 {
		return 0, fmt.Errorf("%q: want at least %d bytes a second, or 0 for no limit", s, MinBandwidth)
	}
	return int64(n), nil
}

// At returns the limit at a moment, in bytes a second; 0 means none.
func (s BandwidthSchedule) At(t time.Time) int64 {
	minute := t.Hour()*60 + t.Minute()
	for _, r := range s {
		if r.holds(t.Weekday(), minute) {
			return r.rate
		}
	}
	return 0
}

func (r *bandwidthRule) holds(day time.Weekday, minute int) bool {
	yesterday := (day + 6) % 7
	switch {
	case r.from == r.to:
		return r.days[day]
	case r.from < r.to:
		return r.days[day] && minute >= r.from && minute < r.to
	default:
		return (r.days[day] && minute >= r.from) || (r.days[yesterday] && minute < r.to)
	}
}
