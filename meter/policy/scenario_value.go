package policy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"creditgate/meter"
)

// fields are the keys of an action.
type fields map[string]item

// text is a scalar as it is written; false for a mapping or a list.
func (i item) text() (string, bool) {
	if n := i.number(); n != "" {
		return n, true
	}
	k := kindOf(i.node)
	return i.at.Value, k != "a mapping" && k != "a list"
}

func word(i item, want string) string {
	text, _ := i.word(want)
	return text
}

// name is the word under a key, such as an account or a reference.
func (f fields) name(key string) string {
	i, ok := f[key]
	if !ok {
		return "" // reported as missing
	}
	text, ok := i.text()
	if !ok || !i.plain() || !meter.ValidName(text) {
		i.failf("is not a name; write 1 to 64 of A-Z a-z 0-9 . _ -")
		return ""
	}
	return text
}

func (f fields) nameOr(key, otherwise string) string {
	if _, ok := f[key]; !ok {
		return otherwise
	}
	return f.name(key)
}

// choice is one of the words, the first where nothing is written.
func (f fields) choice(key string, words ...string) string {
	i, ok := f[key]
	if !ok {
		return words[0]
	}
	text := word(i, strings.Join(words, " or "))
	if text != "" && !slices.Contains(words, text) {
		i.failf("%q is not known; write %s", text, strings.Join(words, " or "))
	}
	return text
}

// whole is a whole number between two bounds, 0 where nothing is written.
func (f fields) whole(key string, low, high int64) int64 {
	i, ok := f[key]
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(i.number(), 10, 64)
	if err != nil || n < low || n > high {
		i.failf("must be a whole number from %d to %d", low, high)
		return 0
	}
	return n
}

func (f fields) credits(key string) meter.Credits {
	if c := f.optionalCredits(key); c != nil {
		return *c
	}
	return 0
}

func (f fields) optionalCredits(key string) *meter.Credits {
	i, ok := f[key]
	if !ok {
		return nil
	}
	c, err := meter.ParseCredits(i.number())
	if err != nil || c < 0 {
		i.failf("must be a number of credits with at most three decimals, such as 3 or 0.25")
	}
	return &c
}

// amount reads credits, or the word unlimited.
func (on *stage) amount(i item, into *BucketLook) {
	if text, _ := i.text(); text == "unlimited" {
		into.Unlimited = true
		return
	}
	into.Available = fields{"": i}.credits("")
}

func (on *stage) bucket(i item) string {
	name := word(i, "the name of a bucket")
	if name != "" && !slices.Contains(on.buckets, name) {
		i.failf("%s", unknown(name, "a bucket", on.buckets))
	}
	return name
}

// moment reads a local time: 2026-03-20, 2026-03-20T09:00 or 2026-03-20T09:00:30.
func (on *stage) moment(i item) (time.Time, bool) {
	text, _ := i.text()
	for _, layout := range [...]string{"2006-01-02", "2006-01-02T15:04", scenarioLayout} {
		if t, err := time.ParseInLocation(layout, text, on.policy.Location); err == nil {
			return t, true
		}
	}
	i.failf("%q is not a time; write a local one, such as 2026-03-20T09:00", text)
	return time.Time{}, false
}

// past is a time that is not after the step, zero where nothing is written. A step that expects an answer may say
// what will be refused.
func (on *stage) past(f fields, key string, want Outcome) time.Time {
	at := on.optionalMoment(f[key])
	if want.Status == 0 && at.After(on.now) {
		f[key].failf("%s is after the step, which is at %s; tell it in a step of that time",
			at.Format(scenarioLayout), on.now.Format(scenarioLayout))
	}
	return at
}

// above is the reference of a purchase or refund of a step above. A step that expects an answer may name any.
func (on *stage) above(f fields, key, what string, want Outcome) string {
	ref := f.name(key)
	if ref != "" && want.Status == 0 && !slices.Contains(on.named[what], ref) {
		if len(on.named[what]) == 0 {
			f[key].failf("%q is no %s above, and there is none; give one this ref", ref, what)
		} else {
			f[key].failf("%s", unknown(ref, "a "+what+" above", on.named[what]))
		}
	}
	return ref
}

func (on *stage) optionalMoment(i item) time.Time {
	if i.node == nil {
		return time.Time{}
	}
	t, _ := on.moment(i)
	return t
}

func (on *stage) momentOrNone(i item) (time.Time, bool) {
	if text, _ := i.text(); text == "none" {
		return time.Time{}, true
	}
	return on.moment(i)
}

var pauseParts = regexp.MustCompile(`^(?:(\d{1,3})y)?(?:(\d{1,4})mo)?(?:(\d{1,4})w)?(?:(\d{1,5})d)?(\d.*)?$`)

// decodePause reads 1y2mo3w4d5h6m7s: years, months, weeks and days of the calendar, then hours.
func decodePause(i item) Pause {
	text, _ := i.text()
	p := Pause{text: text}
	m := pauseParts.FindStringSubmatch(text)
	if m == nil || text == "" {
		i.failf("%q is not a stretch of time; write one such as 3d, 36h or 1mo", text)
		return p
	}
	part := func(n int) int {
		v, _ := strconv.Atoi(m[n]) // digits, or empty for none
		return v
	}
	p.Span = Span{Years: part(1), Months: part(2), Days: 7*part(3) + part(4)}
	if m[5] != "" {
		d, err := time.ParseDuration(m[5])
		if err != nil || d < 0 {
			i.failf("%q is not a stretch of time; write one such as 3d, 36h or 1mo", text)
		}
		p.Duration = d
	}
	return p
}

// decodeOutcome reads a status, and a problem's code after it.
func decodeOutcome(i item) Outcome {
	text, _ := i.text()
	status, code, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(status)
	if err != nil || n < 200 || n > 599 {
		i.failf("%q is not an answer; write a status, and a problem's code where there is one: 402 insufficient-credits", text)
	}
	return Outcome{Status: n, Code: strings.TrimSpace(code)}
}
