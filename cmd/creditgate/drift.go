package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
	"creditgate/meter/outage"
	"creditgate/persist"
)

// driftWatch does now and then what `creditgate verify` does on demand, and shows the result as metrics.
type driftWatch struct {
	store    *persist.Store
	redis    *meter.Inspector
	every    time.Duration
	accounts prometheus.Gauge
	drifts   *prometheus.GaugeVec
	verified prometheus.Gauge
	log      zerolog.Logger
	outages  *outage.Watch
}

func newDriftWatch(
	store *persist.Store, redis *meter.Inspector, every time.Duration, reg prometheus.Registerer, log zerolog.Logger,
	outages *outage.Watch,
) *driftWatch {
	d := &driftWatch{
		store: store, redis: redis, every: every, log: log, outages: outages,
		accounts: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "creditgate_drift_accounts", Help: "Accounts in which Redis and Postgres differed at the last comparison.",
		}),
		drifts: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "creditgate_drifts", Help: "Everything that differed at the last comparison, with or without an account: " +
				"chain (of records), rows, sums, quarantined, redis. At most 1000 in all.",
		}, []string{"kind"}),
		verified: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "creditgate_verified_timestamp_seconds", Help: "When Redis and Postgres were last compared, Unix time; 0: never.",
		}),
	}
	for _, kind := range persist.DriftKinds() {
		d.drifts.WithLabelValues(string(kind)) // a series from the start, for alerts
	}
	reg.MustRegister(d.accounts, d.drifts, d.verified)
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
	report, _, err := verify(ctx, d.store, d.redis)
	if err != nil {
		if ctx.Err() == nil {
			d.outages.Log(d.log, err).Msg("could not compare Redis with Postgres")
		}
		return
	}
	d.accounts.Set(float64(report.DriftAccounts()))
	for _, kind := range persist.DriftKinds() {
		d.drifts.WithLabelValues(string(kind)).Set(float64(report.Count(kind)))
	}
	d.verified.SetToCurrentTime()
	for _, drift := range report.Drifts {
		d.log.Error().Str("kind", string(drift.Kind)).Str("account", drift.Account).Str("where", drift.Where).Str("what", drift.What).
			Str("want", drift.Want).Str("have", drift.Have).Msg("drift: run creditgate verify")
	}
}
