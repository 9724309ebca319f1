package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"creditgate/gateway"
	"creditgate/gateway/webhook"
	"creditgate/meter"
	"creditgate/meter/journal"
	"creditgate/meter/outage"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/events"
)

// Bounds of a node's life.
const (
	databaseFirst = 5 * time.Second // Postgres has this long to answer before the node starts without it
	databaseRetry = time.Second     // between attempts to reach it after that
	replayMax     = 5 * time.Second // on shutdown: for Redis to take what is in the journal
	flushMax      = 5 * time.Second // on shutdown: for Postgres to take what is in the ledger
	settlePoll    = 20 * time.Millisecond
)

// node is one running gateway with everything it is made of.
type node struct {
	config   *config
	log      zerolog.Logger
	clock    *meter.Clock
	moving   *persist.TestClock // nil: time cannot be moved
	store    *persist.Store
	engine   *meter.Engine
	answers  *meter.ReplayStore
	journal  *journal.Journal
	replayer *journal.Replayer
	flusher  *persist.Flusher
	sweeper  *persist.Sweeper
	issuer   *persist.Issuer
	events   *events.Producer
	webhooks *webhook.Sender
	inspect  *meter.Inspector
	drift    *driftWatch
	gate     *gateway.Gateway
	postgres *outage.Server
	hangup   chan os.Signal // SIGHUP; one waits while another is obeyed
}

// newNode makes the parts and introduces them to each other. Nothing is asked of Redis or Postgres yet. name is what
// other gateways call this one.
func newNode(ctx context.Context, c *config, name string, policies *policy.Catalog, log zerolog.Logger) (_ *node, err error) {
	n := &node{config: c, log: log, clock: new(meter.Clock), hangup: make(chan os.Signal, 1)}
	signal.Notify(n.hangup, syscall.SIGHUP)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewBuildInfoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	if n.store, err = persist.Open(ctx, c.PostgresURL, c.Layout, n.clock); err != nil {
		return nil, err
	}
	replay, replayURL := "replay_redis_url", c.ReplayRedisURL
	if replayURL == "" {
		replay, replayURL = "redis_url", c.RedisURL
	}
	if n.answers, err = meter.NewReplayStore(replayURL, c.Layout); err != nil {
		return nil, fmt.Errorf("%s: %w", replay, err)
	}
	// An outage is laid to the first server that its errors name: Postgres' are wrapped in those of an account that cannot
	// be loaded, and stored answers have errors of Redis.
	outages := new(outage.Watch)
	n.postgres = n.store.Watch(outages, metrics, log)
	if replayURL != c.RedisURL {
		n.answers.Watch(outages, log)
	}
	n.engine, err = meter.New(meter.Options{
		RedisURL: c.RedisURL, Layout: c.Layout, Book: n.store, Rebuild: n.store, Log: log, Metrics: metrics, Clock: n.clock,
		Outages: outages,
	})
	if err != nil {
		return nil, fmt.Errorf("redis_url: %w", err)
	}
	disk := outages.Add(outage.Options{
		Name: "The journal's disk", Means: "a result whose charge Redis does not confirm is withheld", Is: journal.ErrWrite, Log: log,
	})
	if n.journal, err = journal.Open(c.JournalDir, journal.Options{Log: log, Metrics: metrics, Outage: disk}); err != nil {
		return nil, fmt.Errorf("journal_dir: %w", err)
	}
	n.replayer = journal.NewReplayer(n.journal, n.engine)
	changes := persist.NewAdmin(n.store, n.engine, policies, log)
	n.flusher = persist.NewFlusher(n.store, n.engine.Ledger(), persist.FlushOptions{TrimLag: c.TrimLag}, metrics, log)
	n.sweeper = persist.NewSweeper(changes, n.engine.Ledger(), persist.SweepOptions{}, metrics, log)
	n.issuer = persist.NewIssuer(changes, persist.IssueOptions{}, metrics, log)
	told := events.NewFeed(n.store.Pool())
	n.events = events.NewProducer(n.store.Pool(), c.Layout, policies, events.Options{Clock: n.clock, Outages: outages}, metrics, log)
	networks, err := webhook.ParseNetworks(c.WebhookNetworks)
	if err != nil {
		return nil, err
	}
	n.webhooks = webhook.NewSender(deliveries{told}, webhook.Options{Networks: networks, Outages: outages}, metrics, log)
	if n.inspect, err = meter.NewInspector(c.RedisURL, c.Layout); err != nil {
		return nil, fmt.Errorf("redis_url: %w", err)
	}
	n.drift = newDriftWatch(n.store, n.inspect, c.VerifyEvery, metrics, log, outages)
	if c.TestClock {
		n.moving = persist.NewTestClock(n.store, log, n.issue, n.sweeper.Sweep, n.engine.SweepNow)
		metrics.MustRegister(clockGauge(n.clock))
	}
	n.gate, err = gateway.New(ctx, gateway.Options{
		Settings: c.Gateway, Policies: policies, Source: policySource{c.Policy, n.store},
		Fleet: fleet{persist.NewFleet(n.store, name)}, Clock: n.clock, TestClock: asTestClock(n.moving),
		Meter: n.engine, Lookup: n.engine, Journal: journalled{n.journal}, Answers: n.answers,
		Identities: identities{n.store}, Ledger: ledger{n.store}, Statements: statements{n.store},
		Admin: admin{changes}, Purchases: purchases{changes}, Subscriptions: subscriptions{changes},
		Health: health{n.engine, n.postgres, n.flusher},
		Feed:   feed{told}, Webhooks: webhooks{told, networks},
		Registerer: metrics, Gatherer: metrics, Log: log, Outages: outages,
	})
	return n, err
}

// close gives back what newNode opened.
func (n *node) close() (err error) {
	signal.Stop(n.hangup)
	if n.journal != nil {
		err = n.journal.Close()
	}
	if n.answers != nil {
		err = errors.Join(err, n.answers.Close())
	}
	if n.inspect != nil {
		err = errors.Join(err, n.inspect.Close())
	}
	if n.store != nil {
		n.store.Close()
	}
	return err
}

// worker is a part that runs on its own until it is told to stop.
type worker struct {
	stop context.CancelFunc
	done chan struct{}
}

func start(ctx context.Context, run func(context.Context)) worker {
	ctx, stop := context.WithCancel(ctx)
	w := worker{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		run(ctx)
	}()
	return w
}

func (w worker) end() {
	w.stop()
	<-w.done
}

// run serves until ctx ends or something fails for good, then ends everything in the order that loses nothing:
// requests first, then the journal, whose commits need the engine, then the flusher, which copies what those commits
// wrote, the engine last.
func (n *node) run(ctx context.Context, data, control net.Listener) error {
	own := context.WithoutCancel(ctx) // the parts outlive the signal; each is ended in its turn
	failed := make(chan error, 1)
	watch := start(own, n.postgres.Run)
	defer watch.end()
	database := n.checkDatabase(ctx) // before the engine opens partitions: it asks Postgres for their cursors
	switch {
	case ctx.Err() != nil:
		return n.close()
	case errors.Is(database, persist.ErrUnavailable):
		n.log.Info().Err(database).Msg("starting without Postgres: what Redis has loaded is served, nothing else")
	case database != nil:
		return errors.Join(database, n.close())
	default:
		n.gate.LookForReload(ctx)
	}
	engine := start(own, func(ctx context.Context) {
		if err := n.engine.Run(ctx); err != nil {
			n.log.Warn().Err(err).Msg("closing the connections to Redis")
		}
	})
	replay := start(own, n.replayer.Run)
	book := start(own, func(ctx context.Context) {
		if err := n.keepBook(ctx, database == nil); err != nil {
			failed <- err
		}
	})
	reload := start(ctx, n.reloadOnSignal)
	defer reload.end()
	served := make(chan error, 1)
	go func() { served <- n.gate.Run(own, data, control) }()

	var err error
	select {
	case <-ctx.Done():
		n.log.Info().Msg("shutting down: requests in flight are finished first; a second signal ends the process at once")
	case err = <-failed:
	case err = <-served:
		served <- nil
	}
	err = errors.Join(err, n.shutdown(own))
	err = errors.Join(err, <-served)
	n.await(own, "settlements in the journal, which are repeated at the next start", replayMax, n.journalEmpty)
	replay.end()
	n.await(own, "ledger records in Redis, which the next flusher takes", flushMax, n.flushed)
	book.stop()
	engine.end() // closes the connections, and with them the flusher's wait for a next record
	<-book.done
	err = errors.Join(err, n.close())
	n.log.Info().Err(err).Msg("stopped")
	return err
}

// reloadOnSignal puts changed policy files in force at each SIGHUP. Mistakes are in the log, and change nothing.
func (n *node) reloadOnSignal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.hangup:
			_ = n.gate.Reload(ctx) // it says by itself what is wrong
		}
	}
}

func (n *node) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.config.ShutdownTimeout)
	defer cancel()
	return n.gate.Shutdown(ctx)
}

// keepBook runs what writes to Postgres, once Postgres has been seen to be the right one.
func (n *node) keepBook(ctx context.Context, checked bool) error {
	for !checked {
		if !sleep(ctx, databaseRetry) {
			return nil
		}
		err := n.checkDatabase(ctx)
		checked = err == nil
		if err != nil && ctx.Err() == nil && !errors.Is(err, persist.ErrUnavailable) {
			return err
		}
	}
	flush, sweep, watch := start(ctx, n.flusher.Run), start(ctx, n.sweeper.Run), start(ctx, n.drift.run)
	issue := start(ctx, n.issuer.Run)
	defer start(ctx, n.gate.CheckDrainOrder).end()
	defer start(ctx, n.gate.FollowReloads).end()
	tell, post := start(ctx, n.events.Run), start(ctx, n.webhooks.Run)
	if n.moving != nil {
		defer start(ctx, n.moving.Run).end()
	}
	<-ctx.Done()
	post.end()
	tell.end()
	issue.end()
	sweep.end()
	watch.end()
	flush.end()
	return nil
}

// issue gives subscriptions what is due by the time that a test clock was moved to.
func (n *node) issue(ctx context.Context) error {
	_, err := n.issuer.Issue(ctx)
	return err
}

func (n *node) checkDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, databaseFirst)
	defer cancel()
	if err := n.store.CheckSchema(ctx); err != nil {
		return err
	}
	if err := n.store.EnsureLayout(ctx); err != nil {
		return err
	}
	n.warnOfPower(ctx)
	err := n.store.EnsureClock(ctx, n.config.TestClock)
	if err == nil && n.config.TestClock {
		n.log.Warn().Time("now", n.clock.Now()).Dur("offset", n.clock.Offset()).Msg("test clock: time can be moved")
	}
	return err
}

// warnOfPower says when a login may do more than the ledger's guards allow: a leaked URL could then rewrite the books.
func (n *node) warnOfPower(ctx context.Context) {
	login, why, err := n.store.TooMuchPower(ctx)
	if err != nil || why == "" { // without an answer the checks around this one say what is wrong
		return
	}
	n.log.Warn().Str("login", login).Msgf("postgres_url: its login %s, so it may change and remove the ledger; make one that "+
		"may not (CREATE ROLE creditgate_gateway LOGIN PASSWORD '...' IN ROLE %s) and leave this one to migrate_url",
		why, persist.WriterRole)
}

// await polls until done says so, at most limit; what names that which may be left over.
func (n *node) await(ctx context.Context, what string, limit time.Duration, done func(context.Context) bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !done(ctx) {
		select {
		case <-ctx.Done():
			n.log.Warn().Msg("leaving " + what)
			return
		case <-time.After(settlePoll):
		}
	}
}

func (n *node) journalEmpty(context.Context) bool { return n.journal.Len() == 0 }

// flushed reports whether Postgres has every record that Redis has now. With Redis away nothing can be flushed.
func (n *node) flushed(ctx context.Context) bool {
	reader := n.engine.Ledger()
	for p := range n.config.Layout.Partitions {
		head, err := reader.Head(ctx, p)
		if err != nil {
			return false
		}
		at, err := n.store.Cursor(ctx, p)
		if err != nil || at.Pseq < head.Pseq {
			return false
		}
	}
	return true
}
