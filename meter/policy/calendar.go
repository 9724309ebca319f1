package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// spanMax bounds the number before each unit of a span.
const spanMax = 3660

const spanForms = "1y, 6mo, 4w or 30d"

// String is the span as a policy writes it.
func (s Span) String() string {
	var b strings.Builder
	weeks, days := s.Days/7, s.Days%7
	if days != 0 { // 10d is 10d and not 1w3d
		weeks, days = 0, s.Days
	}
	for _, part := range []struct {
		n    int
		unit string
	}{{s.Years, "y"}, {s.Months, "mo"}, {weeks, "w"}, {days, "d"}} {
		if part.n != 0 {
			b.WriteString(strconv.Itoa(part.n) + part.unit)
		}
	}
	return b.String()
}

// decodeSpan reads a stretch of the calendar: a whole number of y, mo, w or d.
func decodeSpan(i item) Span {
	text, ok := i.word("a span such as " + spanForms)
	if !ok {
		return Span{}
	}
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	n, whole := wholeNumber(digits)
	var s Span
	switch text[len(digits):] {
	case "y":
		s.Years = n
	case "mo":
		s.Months = n
	case "w":
		s.Days = 7 * n
	case "d":
		s.Days = n
	case "m":
		i.failf("%s could be months or minutes; write %smo for months", show(text), digits)
		return Span{}
	default:
		whole = false
	}
	switch {
	case !whole:
		i.failf("%s is not a span; write a whole number with its unit, such as %s", show(text), spanForms)
	case n == 0:
		i.failf("%s is no time at all; write a span such as %s", text, spanForms)
	case n > spanMax:
		i.failf("%s is out of range; %d is the most of any unit", text, spanMax)
	}
	return s
}

// after is the date that lies the span after a date, both as their midnights in UTC: 1y after 29 February is 28 February.
func (s Span) after(date time.Time) time.Time {
	first := time.Date(date.Year()+s.Years, date.Month()+time.Month(s.Months), 1, 0, 0, 0, 0, time.UTC)
	day := min(date.Day(), daysIn(first.Year(), first.Month()))
	return first.AddDate(0, 0, day-1+s.Days)
}

// decodeDate reads a date as its first moment in loc.
func decodeDate(i item, loc *time.Location) time.Time {
	text, ok := i.word("a date such as 2027-01-01")
	if !ok {
		return time.Time{}
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil || day.Year() < 2000 || day.Year() > 2199 {
		i.failf("%s is not a date; write year-month-day, such as 2027-01-01", show(text))
		return time.Time{}
	}
	return instant(day, loc).In(loc)
}

// decodeClock reads a local time of day, as the time since midnight.
func decodeClock(i item) time.Duration {
	text, ok := i.word(`a time of day in quotes, such as "00:00"`)
	if !ok {
		return 0
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != len("15:04") {
		i.failf(`%s is not a time of day; write hours and minutes in quotes, such as "00:00" or "06:30"`, show(text))
		return 0
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
}

// decodeCycle reads when contingents are renewed.
func decodeCycle(i item) *Cycle {
	keys, ok := i.fields("a mapping such as {anchor: {day_of_month: 1}}", "anchor", "at")
	if !ok {
		return nil
	}
	c := &Cycle{}
	anchor, ok := keys["anchor"]
	if !ok {
		i.failf("anchor is missing; write anchor: {day_of_month: 1}, or anchor: subscription_start")
		return c
	}
	if anchor.isWord() {
		if word, ok := anchor.word(""); ok && word != "subscription_start" {
			anchor.failf("%s is not an anchor; write {day_of_month: 1} or subscription_start", show(word))
		}
		if at, ok := keys["at"]; ok {
			at.failf("has no effect: cycles from subscription_start begin at the time of day at which the subscription did; remove it")
		}
		return c
	}
	day, ok := anchor.fields("{day_of_month: 1} or subscription_start", "day_of_month")
	if !ok {
		return c
	}
	c.DayOfMonth = 1
	if d, ok := day["day_of_month"]; ok {
		c.DayOfMonth, _ = d.whole(1, 31)
	} else {
		anchor.failf("day_of_month is missing; write {day_of_month: 1}, or subscription_start")
	}
	if at, ok := keys["at"]; ok {
		c.At = decodeClock(at)
	}
	return c
}

// String says when a cycle begins.
func (c *Cycle) String() string {
	if c.DayOfMonth == 0 {
		return "monthly from the subscription's start"
	}
	note := ""
	if c.DayOfMonth > 28 {
		note = ", in shorter months the last"
	}
	return fmt.Sprintf("monthly on day %d%s, at %s", c.DayOfMonth, note, time.Time{}.Add(c.At).Format("15:04"))
}
