package gateway

import (
	"fmt"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
	"creditgate/meter/outage"
)

func (g *Gateway) getLive(*call) (int, any, *problem) {
	return fasthttp.StatusOK, struct {
		Status string `json:"status"`
	}{"alive"}, nil
}

// readiness is what /readyz says besides its status, ready or not.
type readiness struct {
	Redis    serverView `json:"redis"`
	Postgres serverView `json:"postgres"`
	// Closed are the partitions that take no reservations.
	Closed []meter.PartitionState `json:"closed_partitions"`
	// Quarantined counts accounts that wait for a person: see `creditgate ledger quarantine`. The gateway that flushes knows them.
	Quarantined int    `json:"quarantined_accounts,omitempty"`
	TestClock   string `json:"test_clock,omitempty"` // how far ahead, such as +365d; absent in production
}

// serverView is how one server stands.
type serverView struct {
	Up    bool      `json:"up"`
	Since time.Time `json:"since,omitzero"` // it is away
	Cause string    `json:"cause,omitempty"`
}

func newServerView(s outage.State) serverView {
	v := serverView{Up: s.Up, Cause: s.Cause}
	if !s.Up {
		v.Since = s.Since.UTC().Truncate(time.Millisecond)
	}
	return v
}

// getReady says whether traffic should come here. It is not ready while every priced request would get 503. Postgres has
// no say, since priced requests do without it.
func (g *Gateway) getReady(*call) (int, any, *problem) {
	r := &readiness{
		Redis: newServerView(g.health.Redis()), Postgres: newServerView(g.health.Postgres()),
		Closed: append([]meter.PartitionState{}, g.health.Closed()...), TestClock: g.clockText(),
		Quarantined: g.health.Quarantined(),
	}
	reasons := r.reasons()
	if g.draining.Load() {
		reasons = []string{"this gateway is shutting down"}
	}
	if len(reasons) == 0 {
		return fasthttp.StatusOK, struct {
			Status string `json:"status"`
			*readiness
		}{"ready", r}, nil
	}
	if r.TestClock != "" {
		reasons = append(reasons, "test clock: "+r.TestClock)
	}
	p := meteringUnavailable(strings.Join(reasons, "; "))
	p.ready = r
	return 0, nil, p
}

func (r *readiness) reasons() (all []string) {
	if !r.Redis.Up {
		all = append(all, "Redis: "+r.Redis.Cause+" (since "+r.Redis.Since.Format(time.RFC3339)+")")
	}
	for _, p := range r.Closed {
		all = append(all, fmt.Sprintf("partition %d: %s", p.Partition, p.Reason))
	}
	return all
}
