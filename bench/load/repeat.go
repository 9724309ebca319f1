package load

import (
	"context"
	"fmt"
	"time"
)

// Repeat calls fn again and again on this goroutine: a closed loop of one client for what is no HTTP request.
func Repeat(ctx context.Context, warm, length time.Duration, fn func(context.Context) error) (Result, error) {
	g := &generator{begin: warm, end: warm + length, recorder: newRecorder(), zero: time.Now()}
	for {
		sent := g.now()
		if sent >= g.end {
			return g.recorder.result(length)
		}
		if err := fn(ctx); err != nil {
			return Result{}, fmt.Errorf("load: %w", err)
		}
		if done := g.now(); g.measured(done) {
			g.recorder.add(ok, done-sent)
		}
	}
}
