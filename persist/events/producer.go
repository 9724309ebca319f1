package events

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
	"creditgate/meter/outage"
	"creditgate/meter/policy"
	"creditgate/persist"
)

// Step is a moment in the life of a transaction of the producer, for tests that end the process there.
type Step int

// The steps, in order.
const (
	StepRead Step = iota + 1
	StepInserted
	StepCommitted
)

// Options are the producer's settings. The zero value of each is a good one.
type Options struct {
	// Clock decides what has begun and what is about to end; default: the system's.
	Clock *meter.Clock
	// Every is the pause between rounds when there was nothing more to do; default 1 s.
	Every time.Duration
	// Outages counts what fails because of a server that is away; nil: each failure is logged.
	Outages *outage.Watch
	// OnStep is called at each step; nil in production.
	OnStep func(Step)
}

// Bounds of the producer.
const (
	pageEntries    = 2000                  // of the ledger, that one transaction looks at
	pageGrants     = 500                   // of an index of dates, that one transaction looks at
	pagesMax       = 20                    // of one kind in a round, so that a backlog of one does not hold the others
	pageTimeout    = 30 * time.Second      // of one transaction
	connectTimeout = 5 * time.Second       // a database that is away is noticed, not waited for
	retryMin       = 50 * time.Millisecond // after a failure, doubled each time …
	retryMax       = time.Second           // … up to this, and half of it more by chance
	leadInterval   = time.Second           // between a follower's attempts to lead
)

// lockClass keeps the producer's advisory lock apart from others in the database ("CE").
const lockClass = 0x43450000

// Producer makes events of what the ledger says and of what time brings. Every gateway runs one; an advisory lock lets
// one work and the others wait. The lock is for economy: what makes each event single is that every transaction first
// locks the row that ids come from and then reads the cursor.
//
// It has a connection of its own and reads what the flusher has committed, so however slow it is, it holds up neither
// the flusher nor a request.
type Producer struct {
	pool     *pgxpool.Pool
	layout   meter.Layout
	policies *policy.Catalog
	options  Options
	made     *prometheus.CounterVec
	behind   *prometheus.GaugeVec
	log      zerolog.Logger
}

// NewProducer makes a producer on a store's pool. Which notices a product wants, it asks policies for each time.
func NewProducer(
	pool *pgxpool.Pool, layout meter.Layout, policies *policy.Catalog, options Options, reg prometheus.Registerer,
	log zerolog.Logger,
) *Producer {
	if options.Clock == nil {
		options.Clock = new(meter.Clock)
	}
	if options.Every == 0 {
		options.Every = time.Second
	}
	if options.OnStep == nil {
		options.OnStep = func(Step) {}
	}
	p := &Producer{
		pool: pool, layout: layout, policies: policies, options: options, log: log,
		made: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditgate_events_total", Help: "Events that this gateway put into the feed.",
		}, []string{"type"}),
		behind: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "creditgate_events_behind",
			Help: "Ledger records in Postgres that no events were made of yet, as the gateway that makes them saw last.",
		}, []string{"partition"}),
	}
	reg.MustRegister(p.made, p.behind)
	return p
}

// Run produces until ctx ends, whenever this gateway is the one to do it.
func (p *Producer) Run(ctx context.Context) {
	pause := retryMin
	for ctx.Err() == nil {
		worked, err := p.lead(ctx)
		p.behind.Reset() // whoever leads now reports it
		if ctx.Err() != nil {
			return
		}
		if worked {
			pause = retryMin
		}
		p.options.Outages.Log(p.log, persist.Marked(err)).Dur("retry_in", pause).Msg("events interrupted")
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// lead waits until this gateway is the one, then works until something fails. The lock goes with the connection.
func (p *Producer) lead(ctx context.Context) (worked bool, err error) {
	conn, err := p.connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // it is closed whatever the server answers
	}()
	for leads := false; !leads; {
		err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, 0)`, lockClass+int(p.layout.Number)).Scan(&leads)
		if err != nil {
			return false, fmt.Errorf("take the lead: %w", err)
		}
		if !leads && !sleep(ctx, leadInterval) {
			return false, ctx.Err()
		}
	}
	_, err = conn.Exec(ctx, `INSERT INTO creditgate.event_cursor (layout, partition)
		SELECT layout, partition FROM creditgate.partition ON CONFLICT DO NOTHING`)
	if err != nil {
		return false, fmt.Errorf("begin cursors: %w", err)
	}
	swept := time.Time{}
	for {
		more, err := p.round(ctx, conn)
		if err != nil {
			return worked, err
		}
		worked = true
		if time.Since(swept) > sweepEvery {
			if err := p.sweep(ctx, conn); err != nil {
				return worked, err
			}
			swept = time.Now()
		}
		if !more && !sleep(ctx, p.options.Every) {
			return worked, ctx.Err()
		}
	}
}

func (p *Producer) connect(ctx context.Context) (*pgx.Conn, error) {
	config := p.pool.Config().ConnConfig
	config.ConnectTimeout = connectTimeout
	config.RuntimeParams["application_name"] = "creditgate events"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// round looks once at everything, and reports whether some of it has more.
func (p *Producer) round(ctx context.Context, conn *pgx.Conn) (more bool, err error) {
	walks := p.walks()
	works := make([]func(context.Context, *page) (bool, error), 0, int(p.layout.Partitions)+len(walks)+1)
	for partition := range p.layout.Partitions {
		works = append(works, func(ctx context.Context, g *page) (bool, error) { return p.tail(ctx, g, int(partition)) })
	}
	for _, w := range walks {
		works = append(works, w.step)
	}
	works = append(works, p.pending)
	for _, work := range works {
		again := true
		for n := 0; again && n < pagesMax; n++ {
			if again, err = p.page(ctx, conn, work); err != nil {
				return false, err
			}
		}
		more = more || again
	}
	return more, nil
}

// page is one transaction: what was found in it, and the moment at which it was looked.
type page struct {
	tx       pgx.Tx
	policies *policy.Catalog
	layout   int
	now      time.Time
	drafts   []draft
}

// page runs one piece of work in a transaction, and adds what it found to the feed. The first statement takes the lock
// under which ids are given: two producers take turns, and the second finds the cursor moved.
func (p *Producer) page(
	ctx context.Context, conn *pgx.Conn, work func(context.Context, *page) (bool, error),
) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	g := &page{policies: p.policies, layout: int(p.layout.Number), now: p.options.Clock.Now().UTC()}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		g.tx = tx
		var last int64
		if err := tx.QueryRow(ctx, `SELECT last FROM creditgate.event_head FOR UPDATE`).Scan(&last); err != nil {
			return err
		}
		if more, err = work(ctx, g); err != nil {
			return err
		}
		p.options.OnStep(StepRead)
		if err := g.insert(ctx, last); err != nil {
			return err
		}
		p.options.OnStep(StepInserted)
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("events: %w", err)
	}
	p.options.OnStep(StepCommitted)
	for _, d := range g.drafts {
		p.made.WithLabelValues(d.kind).Inc()
	}
	return more, nil
}

// notices are what a product wants to be told. A product whose policy is not loaded wants nothing that depends on it.
func (g *page) notices(product string) policy.Notices {
	if p := g.policies.Policy(product); p != nil {
		return p.Notices
	}
	return policy.Notices{}
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
