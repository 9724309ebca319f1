package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/persist"
)

type testClock struct{ clock *persist.TestClock }

var _ gateway.TestClock = testClock{}

// asTestClock is what the gateway is given: no clock and not an empty one where time cannot be moved.
func asTestClock(c *persist.TestClock) gateway.TestClock {
	if c == nil {
		return nil
	}
	return testClock{c}
}

func (t testClock) Advance(ctx context.Context, by time.Duration) error {
	return clockError(t.clock.Advance(ctx, by))
}

func (t testClock) MoveTo(ctx context.Context, now time.Time) error {
	return clockError(t.clock.MoveTo(ctx, now))
}

func clockError(err error) error {
	if errors.Is(err, persist.ErrClockBack) || errors.Is(err, persist.ErrInvalid) {
		return fmt.Errorf("%w: %w", gateway.ErrRefused, err)
	}
	return err
}

// clockGauge tells dashboards and alerts that this is no production gateway.
func clockGauge(c *meter.Clock) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditgate_test_clock_offset_seconds",
		Help: "How far the test clock is ahead; absent where time cannot be moved.",
	}, func() float64 { return c.Offset().Seconds() })
}
