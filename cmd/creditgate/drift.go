package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
	"creditgate/persist"
)

// driftWatch does now and then what `creditgate verify` does on demand, and shows the result as a metric.
type driftWatch struct {
	store    *persist.Store
	engine   *meter.Engine
	every    time.Duration
	accounts prometheus.Gauge
	verified prometheus.Gauge
	log      zerolog.Logger
}

func newDriftWatch(
	store *persist.Store, engine *meter.Engine, every time.Duration, reg prometheus.Registerer, log zerolog.Logger,
) *driftWatch {
	d := &driftWatch{
		store: store, engine: engine, every: every, log: log,
		accounts: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "creditgate_drift_accounts", Help: "Accounts in which Redis and Postgres differed at the last comparison.",
		}),
		verified: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "creditgate_verified_timestamp_seconds", Help: "When Redis and Postgres were last compared, Unix time; 0: never.",
		}),
	}
	reg.MustRegister(d.accounts, d.verified)
	return d
}

// run compares until ctx ends. Rounds of several gateways are spread by chance.
func (d *driftWatch) run(ctx context.Context) {
	if d.every == 0 {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(d.every/2 + rand.N(d.every)):
		}
		d.compare(ctx)
	}
}

func (d *driftWatch) compare(ctx context.Context) {
	report, err := persist.Verify(ctx, d.store, d.engine.Balance)
	if err != nil {
		if ctx.Err() == nil {
			d.log.Warn().Err(err).Msg("could not compare Redis with Postgres")
		}
		return
	}
	d.accounts.Set(float64(report.DriftAccounts()))
	d.verified.SetToCurrentTime()
	for _, drift := range report.Drifts {
		d.log.Error().Str("account", drift.Account).Str("where", drift.Where).Str("what", drift.What).
			Str("want", drift.Want).Str("have", drift.Have).Msg("drift: run creditgate verify")
	}
}
