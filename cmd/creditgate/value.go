package main

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value reads and shows one setting; it implements pflag.Value, so that file, variable and flag are read alike.
type value struct {
	kind string // for --help
	get  func() string
	set  func(string) error
	list bool // the file may give a list
	// empty says that no text means something, such as no peers. Any other setting that is set to nothing is refused: it
	// would silently be the default, or what the file says, while its author believes that it is gone.
	empty bool
}

// String is the present value, in a form that Set takes.
func (v *value) String() string {
	if v.get == nil { // pflag makes a zero value to find out whether a default is worth showing
		return ""
	}
	return v.get()
}

// Set reads s. The error says what would have been right.
func (v *value) Set(s string) error {
	if s = strings.TrimSpace(s); s == "" && !v.empty {
		return errEmpty
	}
	return v.set(s)
}

var errEmpty = errors.New("is set to nothing; give it a value, or leave it out")

// mayBeEmpty lets v be set to nothing.
func mayBeEmpty(v *value) *value {
	v.empty = true
	return v
}

// Type implements pflag.Value.
func (v *value) Type() string { return v.kind }

func text(to *string) *value {
	return &value{kind: "text", get: func() string { return *to }, set: func(s string) error { *to = s; return nil }}
}

func oneOf(to *string, words ...string) *value {
	v := text(to)
	v.set = func(s string) error {
		if !slices.Contains(words, s) {
			return fmt.Errorf("%q must be one of %s", s, strings.Join(words, ", "))
		}
		*to = s
		return nil
	}
	return v
}

func list(to *[]string) *value {
	return &value{
		kind: "list", list: true,
		get: func() string { return strings.Join(*to, ",") },
		set: func(s string) error {
			*to = nil
			for part := range strings.SplitSeq(s, ",") {
				if part = strings.TrimSpace(part); part != "" {
					*to = append(*to, part)
				}
			}
			return nil
		},
	}
}

func truth(to *bool) *value {
	return &value{
		kind: "bool",
		get:  func() string { return strconv.FormatBool(*to) },
		set: func(s string) error {
			if s != "true" && s != "false" {
				return fmt.Errorf("%q must be true or false", s)
			}
			*to = s == "true"
			return nil
		},
	}
}

func number[T int | uint16 | uint32](to *T, lo, hi int) *value {
	return &value{
		kind: "number",
		get:  func() string { return fmt.Sprint(*to) },
		set: func(s string) error {
			n, err := strconv.Atoi(s)
			if err != nil || n < lo || n > hi {
				return fmt.Errorf("%q must be a whole number from %d to %d", s, lo, hi)
			}
			*to = T(n)
			return nil
		},
	}
}

func share(to *float64) *value {
	return &value{
		kind: "share",
		get:  func() string { return strconv.FormatFloat(*to, 'g', -1, 64) },
		set: func(s string) error {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil || !(f > 0 && f <= 1) {
				return fmt.Errorf("%q must be a number above 0 and at most 1, such as 0.5", s)
			}
			*to = f
			return nil
		},
	}
}

// durationMax keeps sums of durations from overflowing.
const durationMax = 30 * 24 * time.Hour

// durationFrom is a duration within bounds that something else rests on.
func durationFrom(to *time.Duration, lo, hi time.Duration) *value {
	v := duration(to)
	set := v.set
	v.set = func(s string) error {
		before := *to
		if err := set(s); err != nil {
			return err
		}
		if *to < lo || *to > hi {
			*to = before
			return fmt.Errorf("%q must lie between %s and %s", s, durationText(lo), durationText(hi))
		}
		return nil
	}
	return v
}

// span is a duration above 0. For most settings 0 would be the default in disguise, or no time at all.
func span(to *time.Duration) *value { return durationFrom(to, time.Millisecond, durationMax) }

func duration(to *time.Duration) *value {
	return &value{
		kind: "duration",
		get:  func() string { return durationText(*to) },
		set: func(s string) error {
			d, err := time.ParseDuration(s)
			if err != nil || d < 0 || d > durationMax {
				return fmt.Errorf("%q must be a duration with its unit, such as 500ms, 60s or 15m", s)
			}
			*to = d
			return nil
		},
	}
}

// durationText drops the zero minutes and seconds that time.Duration writes.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeMax keeps sizes within what every platform's int holds.
const sizeMax = 1 << 30

// size is a number of bytes of at most hi. Units are binary: 1 KiB is 1024 bytes.
func size(to *int, hi int) *value {
	units := []string{"", "KiB", "MiB", "GiB"}
	show := func(n int) string {
		u := 0
		if n > 0 {
			u = min(bits.TrailingZeros(uint(n))/10, len(units)-1)
		}
		return strconv.Itoa(n>>(10*u)) + units[u]
	}
	return &value{
		kind: "size",
		get:  func() string { return show(*to) },
		set: func(s string) error {
			for u, unit := range slices.Backward(units) {
				digits, ok := strings.CutSuffix(s, unit)
				n, err := strconv.Atoi(strings.TrimSpace(digits))
				if ok && err == nil && n > 0 && n <= hi>>(10*u) {
					*to = n << (10 * u)
					return nil
				}
			}
			return fmt.Errorf("%q must be a size above 0 and of at most %s, such as 32MiB, 64KiB or 1048576", s, show(hi))
		},
	}
}
