package studio

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// The steering headers.
const (
	headerLatency   = "X-Studio-Latency"
	headerFailRate  = "X-Studio-Fail-Rate"
	headerFailItems = "X-Studio-Fail-Items"
	headerHang      = "X-Studio-Hang"
	headerReset     = "X-Studio-Reset"
)

// latencyMax bounds a wait, as hangMax bounds a hang: a forgotten one must not hold a connection for ever.
const (
	latencyMax = 10 * time.Minute
	hangMax    = 10 * time.Minute
)

// cutPoint is where an answer stops.
type cutPoint string

const (
	cutNowhere cutPoint = ""
	cutBefore  cutPoint = "before" // before its first byte
	cutBody    cutPoint = "body"   // in the middle of its body
)

// steering is how a request asked to be treated.
type steering struct {
	latency   time.Duration
	failRate  float64
	failFirst int      // so many items fail
	failItems []string // or those with these ids or indices
	hang      cutPoint
	reset     cutPoint
}

// steeringError names the header that cannot be read.
type steeringError struct{ header, value, want string }

func (e *steeringError) Error() string {
	return fmt.Sprintf("%s is %q, must be %s", e.header, e.value, e.want)
}

func parseSteering(h *fasthttp.RequestHeader) (s steering, err *steeringError) {
	for header, read := range map[string]func(string) (want string, ok bool){
		headerLatency:   s.readLatency,
		headerFailRate:  s.readFailRate,
		headerFailItems: s.readFailItems,
		headerHang: func(v string) (string, bool) {
			return "true, before or body", readCut(v, cutBefore, &s.hang)
		},
		headerReset: func(v string) (string, bool) {
			return "true, before or body", readCut(v, cutBody, &s.reset)
		},
	} {
		value := strings.TrimSpace(string(h.Peek(header)))
		if value == "" {
			continue
		}
		if want, ok := read(value); !ok {
			return steering{}, &steeringError{header: header, value: value, want: want}
		}
	}
	return s, nil
}

func (s *steering) readLatency(v string) (want string, ok bool) {
	want = "a duration such as 250ms, or a number of milliseconds, from 0 to " + latencyMax.String()
	d, err := time.ParseDuration(v)
	if ms, msErr := strconv.Atoi(v); msErr == nil {
		d, err = time.Duration(min(ms, int(latencyMax.Milliseconds())+1))*time.Millisecond, nil
	}
	s.latency = d
	return want, err == nil && d >= 0 && d <= latencyMax
}

func (s *steering) readFailRate(v string) (want string, ok bool) {
	f, err := strconv.ParseFloat(v, 64)
	s.failRate = f
	return "a number from 0 to 1", err == nil && f >= 0 && f <= 1
}

func (s *steering) readFailItems(v string) (want string, ok bool) {
	want = "a count, or a list of ids or indices such as 0,2"
	if n, err := strconv.Atoi(v); err == nil {
		s.failFirst = n
		return want, n >= 0
	}
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item != "" {
			s.failItems = append(s.failItems, item)
		}
	}
	return want, len(s.failItems) > 0
}

// readCut reads a cut point; meaning is what a plain "true" stands for.
func readCut(v string, meaning cutPoint, to *cutPoint) bool {
	switch cutPoint(strings.ToLower(v)) {
	case "true", "1":
		*to = meaning
	case "false", "0":
		*to = cutNowhere
	case cutBefore:
		*to = cutBefore
	case cutBody:
		*to = cutBody
	default:
		return false
	}
	return true
}

// fails draws whether the whole request fails. 0 never does and 1 always.
func (s *steering) fails() bool { return rand.Float64() < s.failRate }

// failsItem tells whether item i, which may have an id, is to fail.
func (s *steering) failsItem(i int, id string) bool {
	return i < s.failFirst || id != "" && slices.Contains(s.failItems, id) ||
		slices.Contains(s.failItems, strconv.Itoa(i))
}
