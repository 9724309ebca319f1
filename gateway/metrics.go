package gateway

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// Outcomes of a request that was not refused, as requests_total names them. A refusal is named by its problem code.
const (
	outcomeCommitted = "committed" // charged in full
	outcomePartial   = "partial"   // charged for a part
	outcomeReleased  = "released"  // the backend's own failure was passed on, nothing charged
	outcomeFree      = "free"
	outcomeReplayed  = "replayed"
	outcomeAccount   = "account" // the gateway's own /credits routes
)

// metrics are what the gateway tells Prometheus. There is no account label: accounts are unbounded.
type metrics struct {
	requests    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	overhead    prometheus.Histogram
	inFlight    prometheus.Gauge
	breaker     *prometheus.GaugeVec
	ambiguous   *prometheus.CounterVec
	journalled  *prometheus.CounterVec
	undelivered prometheus.Counter
	answers     *prometheus.CounterVec
	keyLookups  *prometheus.CounterVec
	settlements *prometheus.CounterVec
	admin       *prometheus.CounterVec
	reloads     *prometheus.CounterVec
	loaded      prometheus.Gauge
	policyInfo  *prometheus.GaugeVec
	// served and settled are resolved once, so that a request neither hashes labels nor takes a lock for them. served is
	// by the operation's name, as the labels are, and is replaced as a whole when the policies are.
	served              atomic.Pointer[map[string]*operationMetrics]
	committed, released prometheus.Counter // of settlements
}

// operationMetrics are the figures of one operation; of its outcomes the usual ones.
type operationMetrics struct {
	name     string
	duration prometheus.Observer
	usual    []outcomeCounter
	left     bool // the policies in force do not have it
}

type outcomeCounter struct {
	outcome string
	counter prometheus.Counter
}

// durationBuckets reach to the slowest image job: the usual ones end at 10 s.
func durationBuckets() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}
}

func overheadBuckets() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 2.5}
}

func newMetrics(reg prometheus.Registerer, policies *policy.Catalog) (*metrics, error) {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "creditgate", Name: name, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(counter("requests_total",
			"Requests on the data plane; outcome is committed, partial, released, free, replayed, account or a problem code."),
			[]string{"operation", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "creditgate",
			Name:      "request_duration_seconds", Help: "From the request's head to its settled answer.",
			Buckets: durationBuckets(),
		}, []string{"operation"}),
		overhead: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "creditgate",
			Name:      "overhead_seconds", Help: "What of the duration was not spent waiting for the backend.",
			Buckets: overheadBuckets(),
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "creditgate", Name: "requests_in_flight",
			Help: "Requests on the data plane not yet answered.",
		}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "creditgate", Name: "breaker_state",
			Help: "Circuit breaker of a backend: 0 closed, 1 half-open, 2 open.",
		}, []string{"upstream"}),
		ambiguous: prometheus.NewCounterVec(counter("upstream_ambiguous_total",
			"Requests released although the backend may have done the work: it was sent bytes and gave no whole answer."),
			[]string{"operation"}),
		journalled: prometheus.NewCounterVec(counter("journalled_total",
			"Commits of unknown outcome handed to the journal; result is kept or failed."), []string{"result"}),
		undelivered: prometheus.NewCounter(counter("undelivered_total",
			"Charged responses that the client did not take whole.")),
		answers: prometheus.NewCounterVec(counter("stored_answers_total",
			"Answers to keyed requests; result is stored, full, failed, replayed or missing."), []string{"result"}),
		keyLookups: prometheus.NewCounterVec(counter("key_lookups_total",
			"Look-ups of API keys in Postgres; result is known, unknown or failed."), []string{"result"}),
		settlements: prometheus.NewCounterVec(counter("settlements_total",
			"Settlements asked for by the gateway, by the state they reached; unknown is left to journal or lease."),
			[]string{"state"}),
		admin: prometheus.NewCounterVec(counter("admin_requests_total", "Requests on the control plane."),
			[]string{"route", "status"}),
		reloads: prometheus.NewCounterVec(counter("policy_reloads_total",
			"Attempts to put changed policy files in force; result is loaded or refused."), []string{"result"}),
		policyInfo: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "creditgate_policy_info",
			Help: "1 for the version of each product's policy that this gateway goes by; gateways that differ price differently.",
		}, []string{"product", "version"}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "creditgate", Name: "policy_loaded_timestamp_seconds",
			Help: "When the policies in force were loaded.",
		}),
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.duration, m.overhead, m.inFlight, m.breaker, m.ambiguous, m.journalled, m.undelivered,
		m.answers, m.keyLookups, m.settlements, m.admin, m.reloads, m.loaded, m.policyInfo,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	m.committed = m.settlements.WithLabelValues(meter.Committed.String())
	m.released = m.settlements.WithLabelValues(meter.Released.String())
	m.loaded.SetToCurrentTime()
	m.resolve(policies)
	return m, nil
}

// resolve finds the children that nearly every request needs. An operation that is gone keeps its figures until the
// next replacement, for requests in flight and for scrapers; then they are dropped, so that names do not pile up.
// Callers take turns.
func (m *metrics) resolve(policies *policy.Catalog) {
	fresh := map[string]*operationMetrics{}
	m.serve(fresh, "", outcomeFree)
	m.policyInfo.Reset()
	for product, p := range policies.All() {
		m.policyInfo.WithLabelValues(product, p.Version()).Set(1)
		for _, op := range p.Operations {
			if op.Free() {
				m.serve(fresh, op.Name, outcomeFree)
			} else {
				m.serve(fresh, op.Name, outcomeCommitted, outcomePartial, outcomeReleased)
				if op.NeedsResponse() { // there from the start, so that an alert sees its first increase
					m.serve(fresh, op.Name, string(codeUpstreamUncountable))
				}
			}
		}
	}
	var gone []string
	if before := m.served.Load(); before != nil {
		for name, o := range *before {
			switch {
			case fresh[name] != nil:
			case o.left:
				gone = append(gone, name)
			default:
				fresh[name] = &operationMetrics{name: name, duration: o.duration, usual: o.usual, left: true}
			}
		}
	}
	m.served.Store(&fresh) // before the figures are dropped, so that nobody makes them anew
	for _, name := range gone {
		label := prometheus.Labels{"operation": name}
		m.requests.DeletePartialMatch(label)
		m.ambiguous.DeletePartialMatch(label)
		m.duration.DeletePartialMatch(label)
	}
}

// serve adds the usual outcomes of an operation; two products may have one of the same name.
func (m *metrics) serve(all map[string]*operationMetrics, name string, outcomes ...string) {
	o := all[name]
	if o == nil {
		o = &operationMetrics{name: name, duration: m.duration.WithLabelValues(name)}
		all[name] = o
	}
	for _, outcome := range outcomes {
		if !slices.ContainsFunc(o.usual, func(c outcomeCounter) bool { return c.outcome == outcome }) {
			o.usual = append(o.usual, outcomeCounter{outcome, m.requests.WithLabelValues(name, outcome)})
		}
	}
}

// operation is where a request counts. One that outlived two replacements of its policy counts with those that are no
// operation's: a name that was dropped must not come back.
func (m *metrics) operation(x *exchange) *operationMetrics {
	served := *m.served.Load()
	if op := served[x.operation()]; op != nil {
		return op
	}
	return served[""]
}

// observe records a request that is answered.
func (m *metrics) observe(x *exchange) {
	took := time.Since(x.arrived)
	op := m.operation(x)
	m.countRequest(op, x.outcome)
	op.duration.Observe(took.Seconds())
	m.overhead.Observe(max(0, took-x.upstream).Seconds())
}

func (m *metrics) countRequest(op *operationMetrics, outcome string) {
	for i := range op.usual {
		if op.usual[i].outcome == outcome {
			op.usual[i].counter.Inc()
			return
		}
	}
	m.requests.WithLabelValues(op.name, outcome).Inc()
}

// settledAs counts a settlement by the state it reached.
func (m *metrics) settledAs(s meter.State) {
	switch s {
	case meter.Committed:
		m.committed.Inc()
	case meter.Released:
		m.released.Inc()
	default:
		m.settlements.WithLabelValues(s.String()).Inc()
	}
}

// breakerValue is the contract's number for a state: gobreaker's own order is closed, half-open, open.
func breakerValue(s gobreaker.State) float64 { return float64(s) }
