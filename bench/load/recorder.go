package load

import (
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"creditgate/bench/result"
)

// What a histogram tells apart: a microsecond to two minutes, three digits. One is some 160 KB, so connections share
// a few, and meet in one only now and then.
const (
	latencyMin = 1
	latencyMax = int64(2 * time.Minute / time.Microsecond)
	precision  = 3
	shards     = 8
)

// ok is the outcome that is counted as no error.
const ok = "200"

type recorder struct{ shards [shards]shard }

type shard struct {
	mu       sync.Mutex
	latency  *hdrhistogram.Histogram
	requests int64
	errors   map[string]int64
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(latencyMin, latencyMax, precision)
}

func newRecorder() *recorder {
	r := new(recorder)
	for i := range r.shards {
		r.shards[i].latency, r.shards[i].errors = newHistogram(), map[string]int64{}
	}
	return r
}

// add counts one request. A failed one counts with the time that it took: dropping it would flatter the target.
func (r *recorder) add(outcome string, took time.Duration) {
	micros := min(max(int64(took/time.Microsecond), latencyMin), latencyMax)
	s := &r.shards[uint64(took)%shards] // nanoseconds: as good as random
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if outcome != ok {
		s.errors[outcome]++
	}
	_ = s.latency.RecordValue(micros) // within its bounds
}

// result adds everything up. The workers have ended.
func (r *recorder) result(length time.Duration) (Result, error) {
	out := Result{Seconds: length.Seconds(), Errors: map[string]int64{}}
	all := newHistogram()
	for i := range r.shards {
		s := &r.shards[i]
		all.Merge(s.latency)
		out.Requests += s.requests
		for outcome, n := range s.errors {
			out.Errors[outcome] += n
		}
	}
	var err error
	out.Latency, err = Latency(all)
	return out, err
}

// Latency is what a result says of a histogram.
func Latency(h *hdrhistogram.Histogram) (result.Latency, error) {
	packed, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return result.Latency{}, fmt.Errorf("load: pack the histogram: %w", err)
	}
	at := func(percent float64) float64 { return float64(h.ValueAtQuantile(percent)) }
	return result.Latency{
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()), Mean: h.Mean(), Hist: string(packed),
	}, nil
}
