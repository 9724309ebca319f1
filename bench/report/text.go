package report

import (
	"math"
	"strconv"
	"strings"
)

// number writes a figure with about three digits, and thousands set apart.
func number(v float64) string {
	a, digits := math.Abs(v), 0
	switch {
	case a == math.Trunc(a):
	case a < 0.01:
		digits = 3
	case a < 10:
		digits = 2
	case a < 100:
		digits = 1
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	if digits, negative := strings.CutPrefix(whole, "-"); negative {
		return "−" + group(digits) + dotted(fraction)
	}
	return group(whole) + dotted(fraction)
}

func dotted(fraction string) string {
	if fraction == "" {
		return ""
	}
	return "." + fraction
}

// group sets thousands apart.
func group(digits string) string {
	const three = 3
	for at := len(digits) - three; at > 0; at -= three {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

func withUnit(text, unit string) string {
	if unit == "" {
		return text
	}
	return text + " " + unit
}

// text is the median, and in brackets the range of several rounds.
func (f figure) text(unit string) string {
	if !f.ok() {
		return "–"
	}
	out := withUnit(number(f.mid), unit)
	if f.rounds > 1 {
		out += " (" + number(f.low) + " to " + number(f.high) + ")"
	}
	return out
}

// limit writes a bound, which is given and not measured: without noughts behind the point.
func limit(v float64) string {
	text := number(v)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(text, "0")
	}
	return text
}

// version is the first number with a point in what a program says of itself, or all of it.
func version(said string) string {
	for _, word := range strings.FieldsFunc(said, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }) {
		if strings.Contains(strings.Trim(word, "."), ".") {
			return word
		}
	}
	return said
}
