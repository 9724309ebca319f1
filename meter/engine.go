package meter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"

	"creditgate/lua"
	"creditgate/meter/outage"
)

// ledgerBacklogMax bounds what one partition keeps for a Postgres that is away: beyond it nothing new is reserved,
// while what is held is still settled. Records of full batches are some 4 KB, so this is at most about 2 GB.
const ledgerBacklogMax = 500_000

// verbBudget is how long a verb may take in all: attempts, a partition that is being opened, an account that is
// being loaded. It equals the settle budget.
const verbBudget = 2 * time.Second

// Options configure an Engine. All fields but Clock, Now and Outages are required.
type Options struct {
	RedisURL string
	Layout   Layout
	Book     Book
	Rebuild  RebuildSource
	Log      zerolog.Logger
	Metrics  prometheus.Registerer
	Clock    *Clock           // nil: the system's. Its offset goes with every call, so that Redis' clock is moved too
	Now      func() time.Time // nil: Clock.Now; for a time that stands still
	Outages  *outage.Watch    // what else is watched in this process; nil: nothing
}

// Engine carries verbs to the scripts. Its methods are safe for concurrent use; calls made at the same time share
// flights. Run must be running for partitions to be opened and leases to expire.
type Engine struct {
	layout  Layout
	book    Book
	rebuild RebuildSource
	log     zerolog.Logger
	clock   *Clock
	still   func() time.Time // Options.Now
	metrics *engineMetrics

	library    lua.Library
	calls      *sync.Pool // of *call
	ops        *sync.Pool // of *op
	records    *sync.Pool // of *Records
	redis      atomic.Pointer[redis.UniversalClient]
	redisMu    sync.Mutex // one reconnection at a time
	newClient  func() (redis.UniversalClient, error)
	cluster    bool
	breaker    *gobreaker.TwoStepCircuitBreaker[any]
	batch      batcher
	partitions []*partition
	loads      singleflight.Group
	orphans    chan Settle // reserves of unknown outcome, to be released
	name       string      // of this engine among those that share a Redis
	mark       mark        // of its reservations

	outages *outage.Watch
	server  *outage.Server // Redis
	closed  *outage.Server // what fails because a partition is not open
	wasAway bool           // at the last check; belongs to it

	fullUntilMs   atomic.Int64 // until then Redis is taken to be full: see newCalls
	scriptUntilMs atomic.Int64 // until then it is taken to be full and without the library, so that settlements go by script
}

// New connects lazily: a Redis that is away is reported by Ready, not by New.
func New(o Options) (*Engine, error) {
	if o.Layout.Partitions == 0 || o.Layout.Partitions > PartitionsMax || o.Layout.Number == 0 {
		return nil, fmt.Errorf("meter: layout %d with %d partitions: a layout has a number above 0 and 1 to %d partitions",
			o.Layout.Number, o.Layout.Partitions, PartitionsMax)
	}
	if o.Clock == nil {
		o.Clock = new(Clock)
	}
	library, err := lua.Load()
	if err != nil {
		return nil, err
	}
	e := &Engine{
		layout: o.Layout, book: o.Book, rebuild: o.Rebuild, log: o.Log, clock: o.Clock, still: o.Now,
		library: library, calls: newCalls(), records: newRecords(),
		ops:     &sync.Pool{New: func() any { return new(op) }},
		metrics: newEngineMetrics(o.Metrics), breaker: newBreaker(), orphans: make(chan Settle, orphansMax),
		name: NewID(time.Now()).String(), mark: newMark(),
		newClient: func() (redis.UniversalClient, error) { return NewRedis(o.RedisURL) },
	}
	client, err := e.newClient()
	if err != nil {
		return nil, err
	}
	_, e.cluster = client.(*redis.ClusterClient)
	e.watch(o.Outages, o.Metrics)
	e.redis.Store(&client)
	e.batch.fly = e.fly
	for p := range o.Layout.Partitions {
		e.partitions = append(e.partitions, newPartition(p, o.Layout.Keys(p)))
		e.metrics.open.WithLabelValues(strconv.Itoa(int(p))) // a series from the start; the sweep fills it in
	}
	return e, nil
}

// read is the time that decides, and how far a test clock is ahead in it: of one moment, since Redis adds the same.
func (e *Engine) read() (now time.Time, offset time.Duration) {
	now, offset = e.clock.Read()
	if e.still != nil {
		now = e.still()
	}
	return now, offset
}

func (e *Engine) now() time.Time {
	now, _ := e.read()
	return now
}

// NewReservationID makes an id for a reservation of the account.
func (e *Engine) NewReservationID(account string) ReservationID {
	id := NewID(e.now())
	e.mark.putInto(&id)
	return e.layout.NewReservationID(id, account)
}

// Reserve sets credit aside. When any attempt stayed without an answer and the reservation is not held in the end, a
// release of the id follows by itself.
func (e *Engine) Reserve(ctx context.Context, r Reserve) (Decision, error) {
	if r.Amount <= 0 || !r.Amount.Valid() || r.Lease < LeaseMin || r.Lease > LeaseMax {
		return Decision{}, fmt.Errorf("meter: reserve of %s for %s: amount must be above 0 and at most %s, lease %s to %s: %w",
			r.Amount, r.Lease, MaxCredits, LeaseMin, LeaseMax, ErrNotSent)
	}
	if backlog := e.backlog(r.ID.Partition); backlog > ledgerBacklogMax {
		return Decision{}, fmt.Errorf("meter: %d ledger records wait for Postgres, at most %d: %w: %w: %w",
			backlog, ledgerBacklogMax, errClosed, ErrUnavailable, ErrNotSent)
	}
	o, _ := e.ops.Get().(*op) // the pool makes no other
	d, err := e.run(ctx, o.reserve(r), r.Until)
	held := err == nil && d.Code == CodeOK && d.Reservation.State == Held
	if o.maybe && !held { // an attempt without an answer may still run, also after a denial
		e.orphan(Settle{ID: r.ID, Account: r.Account})
	}
	e.ops.Put(o) // not after a panic: a flight may still have it then
	if err == nil && d.Code == CodeKeyInProgress {
		d.HolderGone = e.isGone(ctx, d.Reservation.ID.ID)
	}
	return d, err
}

// Commit charges s.Amount of a reservation and gives the rest back. A commit that Redis does not know is booked
// late, from s.Reserved and s.Note, after Postgres was asked where that is needed.
func (e *Engine) Commit(ctx context.Context, s Settle) (Decision, error) {
	if s.Amount <= 0 || !s.Amount.Valid() {
		return Decision{}, fmt.Errorf("meter: commit of %s: the amount must be above 0; release takes nothing: %w",
			s.Amount, ErrNotSent)
	}
	if s.Until.IsZero() {
		s.Until = time.Now().Add(verbBudget) // of all steps together
	}
	o, _ := e.ops.Get().(*op) // the pool makes no other
	d, err := e.run(ctx, o.commit(s, false, true), s.Until)
	e.ops.Put(o)
	if err != nil || d.Code != CodeUnknown {
		return d, err
	}
	return e.commitUnknown(ctx, s, d)
}

// commitUnknown commits what Redis does not know: with all details, and after Postgres was asked where that is needed.
func (e *Engine) commitUnknown(ctx context.Context, s Settle, d Decision) (Decision, error) {
	if r := d.Reservation; r.State != 0 { // made under an Idempotency-Key that the caller did not name
		s.Note, s.Reserved = r.Note, r.Amount
	}
	if s.Reserved <= 0 {
		return d, nil
	}
	d, err := e.run(ctx, commitOp(s, true, true), s.Until)
	if err != nil || d.Code != CodeAskLedger {
		return d, err
	}
	r, known, err := e.askLedger(ctx, s.ID, s.Until)
	if err != nil {
		return d, err
	}
	if !known || r.State == Expired { // booked late now; the script still refuses a second time
		if known {
			s.Note, s.Reserved = r.Note, r.Amount
		}
		return e.run(ctx, commitOp(s, true, false), s.Until)
	}
	d.Code, d.Reservation = CodeOK, r
	if r.Charged != s.Amount && r.State != Uncollected {
		d.Code = CodeConflict
	}
	return d, nil
}

// Release gives a reservation back whole. It may be sent for an id whose reserve was never answered.
func (e *Engine) Release(ctx context.Context, s Settle) (Decision, error) {
	o := settleOp(verbRelease, s.ID, s.Account)
	o.brief = s.Brief
	d, err := e.run(ctx, o, s.Until)
	if err != nil || d.Code != CodeAskLedger {
		return d, err
	}
	r, known, err := e.askLedger(ctx, s.ID, s.Until)
	if err != nil {
		return d, err
	}
	switch {
	case !known: // never made, and too old to be made now
		d.Code, d.Reservation = CodeOK, Reservation{ID: s.ID, State: Released, Account: s.Account}
	case r.State == Released || r.State == Expired:
		d.Code, d.Reservation = CodeOK, r
	default:
		d.Code, d.Reservation = CodeConflict, r
	}
	return d, nil
}

// Extend lets a held reservation live for at least lease from now.
func (e *Engine) Extend(ctx context.Context, id ReservationID, lease time.Duration) (Decision, error) {
	if lease < LeaseMin || lease > LeaseMax {
		return Decision{}, fmt.Errorf("meter: a lease of %s: from %s to %s: %w", lease, LeaseMin, LeaseMax, ErrNotSent)
	}
	return e.run(ctx, settleOp(verbExtend, id, "").i48(lease.Milliseconds()), time.Time{})
}

// Grant adds a lot of credit. Decision.Account is the account afterwards.
func (e *Engine) Grant(ctx context.Context, g GrantChange) (Decision, error) {
	if g.Grant.Available <= 0 || !g.Grant.Available.Valid() || !ValidName(g.Grant.Bucket) {
		return Decision{}, fmt.Errorf("meter: grant of %s in bucket %q: the amount must be above 0, the bucket a name: %w",
			g.Grant.Available, g.Grant.Bucket, ErrNotSent)
	}
	for _, ms := range [...]int64{g.Grant.EffectiveMs, g.Grant.ExpiresMs, g.Grant.CreatedMs} {
		if ms < 0 || ms > Never {
			return Decision{}, badTime(ms)
		}
	}
	return e.run(ctx, grantOp(e.layout.PartitionOf(g.Account), g), time.Time{})
}

// Revoke takes credit back from a grant that was applied.
func (e *Engine) Revoke(ctx context.Context, r Revocation) (Decision, error) {
	if r.Amount <= 0 || !r.Amount.Valid() {
		return Decision{}, fmt.Errorf("meter: revocation of %s: the amount must be above 0: %w", r.Amount, ErrNotSent)
	}
	if u := r.Undone; u != nil && (u.Amount <= 0 || u.Amount > r.Amount || u.Grant.Debt < 0) {
		return Decision{}, fmt.Errorf("meter: revocation of %s in place of one of %s: that must be above 0 and at most as much: %w",
			r.Amount, u.Amount, ErrNotSent)
	}
	return e.run(ctx, revokeOp(e.layout.PartitionOf(r.Account), r), time.Time{})
}

// Reverse undoes a revocation.
func (e *Engine) Reverse(ctx context.Context, r Reversal) (Decision, error) {
	if r.Amount <= 0 || !r.Amount.Valid() || r.Grant.Debt < 0 || !ValidName(r.Grant.Bucket) {
		return Decision{}, fmt.Errorf("meter: reversal of %s in bucket %q: the amount must be above 0, the bucket a name: %w",
			r.Amount, r.Grant.Bucket, ErrNotSent)
	}
	for _, ms := range [...]int64{r.Grant.EffectiveMs, r.Grant.ExpiresMs, r.Grant.CreatedMs} {
		if ms < 0 || ms > Never {
			return Decision{}, badTime(ms)
		}
	}
	return e.run(ctx, reverseOp(e.layout.PartitionOf(r.Account), r), time.Time{})
}

// MoveExpiry lets a grant end at another time.
func (e *Engine) MoveExpiry(ctx context.Context, m ExpiryMove) (Decision, error) {
	if m.ExpiresMs < 0 || m.ExpiresMs > Never {
		return Decision{}, badTime(m.ExpiresMs)
	}
	return e.run(ctx, moveExpiryOp(e.layout.PartitionOf(m.Account), m), time.Time{})
}

// badTime says that a time cannot be kept in 48 bits, of which the scripts use 47.
func badTime(ms int64) error {
	return fmt.Errorf("meter: time %d ms is outside 1970 to %s: %w", ms, time.UnixMilli(Never).UTC().Format("2006"), ErrNotSent)
}

// Suspend sets or clears the account's suspension, unless the account has a newer version of it.
func (e *Engine) Suspend(ctx context.Context, account string, suspended bool, version uint32) (Decision, error) {
	flag := byte(0)
	if suspended {
		flag = 1
	}
	o := newOp(verbSuspend, e.layout.PartitionOf(account), NewID(e.now()), account)
	return e.run(ctx, o.u32(version).u8(flag), time.Time{})
}

// Balance reads an account.
func (e *Engine) Balance(ctx context.Context, account string) (Decision, error) {
	o := newOp(verbRead, e.layout.PartitionOf(account), NewID(e.now()), account)
	return e.run(ctx, o.u8(readAccount), time.Time{})
}

// Reservation reads a reservation, from Postgres once Redis has forgotten it.
func (e *Engine) Reservation(ctx context.Context, id ReservationID) (Decision, error) {
	d, err := e.run(ctx, settleOp(verbRead, id, "").u8(readReservation), time.Time{})
	if err != nil || d.Code == CodeOK {
		return d, err
	}
	r, known, err := e.askLedger(ctx, id, time.Now().Add(verbBudget))
	if err != nil {
		return d, err
	}
	if !known {
		return d, fmt.Errorf("meter: %s: %w", id, ErrNoReservation)
	}
	return Decision{Code: CodeOK, Reservation: r, NowMs: d.NowMs}, nil
}

// run sends one operation until it has a decision: it waits for its partition to be open, and loads its account
// when Redis does not have it, until a moment (zero: for verbBudget) and one flight. What is in flight is not
// interrupted by ctx, so a caller that gives up does not leave a verb half decided; pass a context that outlives the
// client. The moment is a value and no context's deadline, which would cost every verb a timer that few need.
func (e *Engine) run(ctx context.Context, o *op, until time.Time) (Decision, error) {
	if o.outcomes && (o.layout != e.layout.Number || o.partition >= e.layout.Partitions) {
		return Decision{}, fmt.Errorf("meter: %s of layout %d, partition %d: %w: %w",
			o.verb, o.layout, o.partition, ErrNoReservation, ErrNotSent)
	}
	if o.outcomes && o.account != "" && e.layout.PartitionOf(o.account) != o.partition {
		return Decision{}, fmt.Errorf("meter: %s %s: account %q is not in partition %d: %w",
			o.verb, o.id, o.account, o.partition, ErrNotSent) // loading it there would give it two balances
	}
	if until.IsZero() {
		until = time.Now().Add(verbBudget)
	}
	d, err := e.carry(ctx, o, until)
	if err != nil && o.maybe && errors.Is(err, ErrNotSent) {
		err = withoutNotSent(err)
	}
	return d, err
}

func (e *Engine) carry(ctx context.Context, o *op, until time.Time) (Decision, error) {
	p := e.partitions[o.partition]
	for {
		if !p.ready() {
			if err := within(ctx, until, p.waitOpen); err != nil {
				return Decision{}, err
			}
		}
		if err := e.batch.do(o); err != nil {
			return Decision{}, err
		}
		if o.err != nil {
			return Decision{}, o.err
		}
		switch o.code {
		case CodeFenced, CodeEpoch, CodeRegressed, CodeClosed, CodeTorn:
			o.maybe = o.maybe || o.code == CodeTorn // its record may have been appended
			if len(o.body) > 0 {
				e.log.Error().Uint16("partition", o.partition).Stringer("code", o.code).Bytes("redis", o.body).Msg("write failed")
			}
			p.shut(o.epoch, o.code)
		case CodeClock:
			return Decision{}, fmt.Errorf("meter: %w: %w: this host's clock is more than a minute off Redis'",
				ErrUnavailable, ErrNotSent)
		case CodeNotLoaded:
			err := within(ctx, until, func(ctx context.Context) error { return e.loadAccount(ctx, o.account, o.partition, o.id) })
			if err != nil {
				return Decision{}, err
			}
		default:
			p.saw(o.head)
			return o.decision(e.layout)
		}
		if ctx.Err() != nil || !time.Now().Before(until) {
			return Decision{}, fmt.Errorf("meter: %s: out of time, last refused: %s: %w: %w",
				o.verb, o.code, ErrUnavailable, ErrNotSent)
		}
	}
}

// within gives what waits a context that ends at a moment.
func within(ctx context.Context, until time.Time, fn func(context.Context) error) error {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return fn(ctx)
}

// askLedger looks a reservation up in Postgres once its cursor has passed the partition's present head.
func (e *Engine) askLedger(ctx context.Context, id ReservationID, until time.Time) (Reservation, bool, error) {
	if until.IsZero() {
		until = time.Now().Add(verbBudget)
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	head, err := e.meta(ctx, id.Partition)
	if err != nil {
		return Reservation{}, false, err
	}
	for {
		r, at, ok, err := e.book.Outcome(ctx, id)
		if err != nil {
			return Reservation{}, false, fmt.Errorf("meter: outcome of %s: %w: %w: %w", id, ErrUnavailable, ErrNotSent, err)
		}
		if ok || at.Pseq >= head.Pseq {
			return r, ok, nil
		}
		if err := pause(ctx, cursorPoll); err != nil {
			return Reservation{}, false, fmt.Errorf("meter: outcome of %s: the flusher is behind: %w: %w",
				id, ErrUnavailable, ErrNotSent)
		}
	}
}

// pause waits, or returns when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
