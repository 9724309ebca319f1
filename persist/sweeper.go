package persist

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
)

// Ledger is what the sweeper asks of Redis: how far a partition's ledger goes.
type Ledger interface {
	Head(ctx context.Context, partition uint16) (meter.Position, error)
}

// SweepOptions say how often. The zero value of each is a good one.
type SweepOptions struct {
	Every   time.Duration // between rounds; default 5 s
	Pending time.Duration // age at which a change is applied again; default 30 s
}

// Bounds of a round.
const (
	sweepPage      = 100
	cursorWaitMax  = 10 * time.Second // for the flusher to pass the head
	cursorInterval = 100 * time.Millisecond
	behindInterval = 250 * time.Millisecond // between looks whether a partition is behind, at first; then up to …
	behindMax      = 1500 * time.Millisecond
)

// Sweeper applies changes that are still pending after a while, because Redis was away or the gateway died between
// Postgres and Redis; in a partition that this gateway found away, or opened, it applies all as soon as Redis takes
// them. Every gateway runs one; two at the same change do no harm.
type Sweeper struct {
	admin   *Admin
	ledger  Ledger
	options SweepOptions
	pending *prometheus.GaugeVec
	swept   prometheus.Counter
	log     zerolog.Logger
}

// NewSweeper makes a sweeper over admin's store and engine.
func NewSweeper(admin *Admin, ledger Ledger, options SweepOptions, reg prometheus.Registerer, log zerolog.Logger) *Sweeper {
	if options.Every == 0 {
		options.Every = 5 * time.Second
	}
	if options.Pending == 0 {
		options.Pending = 30 * time.Second
	}
	s := &Sweeper{
		admin: admin, ledger: ledger, options: options, log: log,
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "creditgate_changes_pending",
			Help: "Grants, revocations, expiry moves and suspensions that Redis may not have yet, at the last sweep.",
		}, []string{"partition"}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditgate_changes_swept_total", Help: "Pending changes that the sweeper applied.",
		}),
	}
	reg.MustRegister(s.pending, s.swept)
	return s
}

// Run sweeps until ctx ends. Rounds of several gateways are spread by chance.
func (s *Sweeper) Run(ctx context.Context) {
	round, wait := time.After(s.pause()), behindInterval
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			if wait = min(2*wait, behindMax); s.sweepBehind(ctx) {
				wait = behindInterval
			}
		case <-round:
			pause := s.pause()
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.admin.outages.Log(s.log, err).Msg("sweep of pending changes failed; the next round tries again")
				pause = min(pause, spread(retryMax))
			}
			round = time.After(pause)
		}
	}
}

func (s *Sweeper) pause() time.Duration { return spread(s.options.Every) }

// Sweep applies what is pending once, in every partition. A partition that cannot be swept does not keep the others
// from it; the first error is returned.
func (s *Sweeper) Sweep(ctx context.Context) error {
	var first error
	for p := range s.admin.layout.Partitions {
		if err := s.sweepPartition(ctx, p, s.options.Pending); err != nil && first == nil {
			first = fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return first
}

// sweepBehind applies what is pending in partitions that are behind, however new it is, and reports whether none is
// left behind. Redis is away, or not open, as long as the first change fails: then the others wait, so that no grant is
// there before a revocation that precedes it. A change that Redis never takes keeps them until they have the age at
// which rounds apply them.
func (s *Sweeper) sweepBehind(ctx context.Context) (done bool) {
	done = true
	for p := range s.admin.layout.Partitions {
		behind := &s.admin.behind[p]
		if behind.Swap(false) && s.sweepPartition(ctx, p, 0) != nil {
			behind.Store(true)
			done = false
		}
	}
	return done
}

// sweepPartition applies what is pending for that long, in the order in which it is listed. With no age at all it ends
// at the first change that fails.
func (s *Sweeper) sweepPartition(ctx context.Context, partition uint16, age time.Duration) error {
	var last PendingChange
	left := 0
	for {
		page, err := s.admin.Pending(ctx, partition, age, last, sweepPage)
		if err != nil {
			return err
		}
		if len(page) > 0 && last == (PendingChange{}) {
			// What an attempt before this moment did is in the ledger up to here. Only what is still pending once
			// the flusher has passed it needs another attempt; the rest is merely not flushed yet.
			if err := s.awaitFlush(ctx, partition); err != nil {
				return err
			}
		}
		for _, c := range page {
			switch {
			case s.sweep(ctx, c):
				s.swept.Inc()
			case age == 0:
				return fmt.Errorf("%s %s of account %q: %w", c.Kind, c.ID, c.Account, meter.ErrUnavailable)
			default:
				left++
			}
		}
		if len(page) < sweepPage {
			s.pending.WithLabelValues(strconv.Itoa(int(partition))).Set(float64(left))
			return nil
		}
		last = page[len(page)-1]
	}
}

// sweep applies one change; Admin.apply reads its status again together with the cursor.
func (s *Sweeper) sweep(ctx context.Context, c PendingChange) bool {
	if c.Kind == "suspension" {
		return s.admin.applyFlags(ctx, c.Account)
	}
	if c.Kind == string(revocationChange) && s.admin.endsInForce(ctx, c.ID) {
		done, _ := s.admin.applyPending(ctx, c.Account) // what takes its place first
		return done
	}
	return s.admin.apply(ctx, changeKind(c.Kind), c.ID) != notApplied
}

// awaitFlush returns once the cursor in Postgres has passed the head that Redis has now.
func (s *Sweeper) awaitFlush(ctx context.Context, partition uint16) error {
	head, err := s.ledger.Head(ctx, partition)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cursorWaitMax)
	defer cancel()
	for {
		at, err := s.admin.Cursor(ctx, partition)
		if err != nil {
			return err
		}
		if at.Pseq >= head.Pseq {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the flusher is at %d and the head was %d: %w", at.Pseq, head.Pseq, ErrUnavailable)
		case <-time.After(cursorInterval):
		}
	}
}
