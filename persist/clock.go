package persist

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
)

// Bounds of a test clock.
const (
	clockFollowEvery = time.Second
	clockFollowMax   = 5 * time.Second // for Postgres to tell the offset
)

// Sentinels of the test clock.
var (
	// ErrTestClock says that the database is a test database and the gateway is not set to be one, or the other way
	// round: ids from the future and lapses that never happened would get into real books.
	ErrTestClock = errors.New("test clock")
	// ErrClockBack says that a test clock would go back.
	ErrClockBack = errors.New("time never goes back")
)

// EnsureClock decides, on a database that nothing was ever written to, whether it is a test database, and returns
// ErrTestClock if that was decided otherwise before. On a test database the store's clock then has its offset. The row
// is made once: of two gateways that start together on an empty database, the first decides for both.
func (s *Store) EnsureClock(ctx context.Context, test bool) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO creditgate.clock (test) SELECT $1
		WHERE NOT $1 OR NOT (EXISTS (SELECT FROM creditgate.account) OR EXISTS (SELECT FROM creditgate.ledger_record))
		ON CONFLICT DO NOTHING`, test)
	if err != nil {
		return storeError("decide on the test clock", err)
	}
	var marked bool
	err = s.pool.QueryRow(ctx, `SELECT test FROM creditgate.clock`).Scan(&marked)
	switch {
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return storeError("read the test clock", err)
	case test && !marked: // no row: there were accounts before the first gateway with this table
		return fmt.Errorf("%w: CREDITGATE_TEST_CLOCK is set, but this database was not begun with it: its books are real; "+
			"unset it, or use a new, empty database", ErrTestClock)
	case marked && !test:
		return fmt.Errorf("%w: this database was begun with CREDITGATE_TEST_CLOCK=true, and its time may lie in the future; "+
			"set it, or use another database", ErrTestClock)
	case !test:
		return nil
	case s.clock.Offset() == 0: // it may begin in the past, and goes on from there
		offset, err := s.clockOffset(ctx)
		s.clock.Set(offset)
		return err
	}
	return s.followClock(ctx)
}

// BeginTestClock makes a database to which nothing was ever written a test database whose clock begins at a moment, in
// the past or in the future. Gateways are started on it afterwards. ErrTestClock if the database was begun already.
func BeginTestClock(ctx context.Context, url string, at time.Time) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return storeError("begin a test clock", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	tag, err := conn.Exec(ctx, `INSERT INTO creditgate.clock (test, offset_ms) SELECT true, $1
		WHERE NOT EXISTS (SELECT FROM creditgate.account) AND NOT EXISTS (SELECT FROM creditgate.ledger_record)
		ON CONFLICT DO NOTHING`, time.Until(at).Milliseconds())
	switch {
	case err != nil:
		return storeError("begin a test clock", err)
	case tag.RowsAffected() == 0:
		return fmt.Errorf("%w: the database was begun already; use a new, empty one", ErrTestClock)
	}
	return nil
}

// followClock sets the store's clock to the database's, unless its own is ahead: a move of this process comes first.
func (s *Store) followClock(ctx context.Context) error {
	offset, err := s.clockOffset(ctx)
	if err != nil {
		return err
	}
	s.clock.Advance(offset)
	return nil
}

func (s *Store) clockOffset(ctx context.Context) (time.Duration, error) {
	var ms int64
	err := s.pool.QueryRow(ctx, `SELECT offset_ms FROM creditgate.clock WHERE test`).Scan(&ms)
	if err != nil {
		return 0, storeError("read the test clock", err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// TestClock moves the time of all gateways on a test database. Each follows the offset in Postgres every second; the one
// that moves it has it at once. Until another has followed, Redis refuses its calls, for a clock that is off, once the
// partition has seen the new time.
type TestClock struct {
	store *Store
	due   []func(context.Context) error
	one   sync.Mutex // move at a time
	log   zerolog.Logger
}

// NewTestClock makes the clock that moves store's. After each move it runs due, in order: what became due by then is
// issued, applied and lapsed before the move is answered.
func NewTestClock(store *Store, log zerolog.Logger, due ...func(context.Context) error) *TestClock {
	return &TestClock{store: store, due: due, log: log}
}

// Now is the moved time.
func (c *TestClock) Now() time.Time { return c.store.clock.Now() }

// Offset is how far it is ahead.
func (c *TestClock) Offset() time.Duration { return c.store.clock.Offset() }

// Run follows the offset until ctx ends.
func (c *TestClock) Run(ctx context.Context) {
	for sleep(ctx, clockFollowEvery) {
		if err := c.follow(ctx); err != nil && ctx.Err() == nil {
			c.store.outages.Log(c.log, err).Msg("cannot follow the test clock; the next second tries again")
		}
	}
}

func (c *TestClock) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockFollowMax)
	defer cancel()
	return c.store.followClock(ctx)
}

// Advance moves the clock on, by 0 too: then only what is due is done.
func (c *TestClock) Advance(ctx context.Context, by time.Duration) error {
	return c.move(ctx, by,
		`UPDATE creditgate.clock SET offset_ms = offset_ms + $1 WHERE test AND $1::bigint >= 0 RETURNING offset_ms`)
}

// MoveTo lets it be the given time. ErrClockBack if it is later already.
func (c *TestClock) MoveTo(ctx context.Context, now time.Time) error {
	return c.move(ctx, time.Until(now),
		`UPDATE creditgate.clock SET offset_ms = $1::bigint WHERE test AND offset_ms <= $1 RETURNING offset_ms`)
}

func (c *TestClock) move(ctx context.Context, ahead time.Duration, update string) error {
	c.one.Lock()
	defer c.one.Unlock()
	var ms int64
	err := c.store.pool.QueryRow(ctx, update, ahead.Milliseconds()).Scan(&ms)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: the clock is %s ahead already", ErrClockBack, c.Offset())
	}
	if err != nil {
		return storeError("move the test clock", invalid(err))
	}
	c.store.clock.Advance(time.Duration(ms) * time.Millisecond)
	c.log.Warn().Time("now", c.Now()).Dur("offset", c.Offset()).Msg("test clock moved")
	for _, do := range c.due {
		if err := do(ctx); err != nil {
			return fmt.Errorf("the clock is moved, what became due is not all done: %w", err)
		}
	}
	return nil
}
