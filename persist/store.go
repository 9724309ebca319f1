package persist

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"creditgate/meter"
	"creditgate/meter/outage"
)

// Store reads and writes the system of record as the writer role. Its methods may be called concurrently.
type Store struct {
	pool   *pgxpool.Pool
	asked  *pgxpool.Pool // for lookups; see openLookups
	layout meter.Layout
	clock  *meter.Clock // the time that decides what is due and when something was made
	// hurried has, per partition, whether somebody waits for its ledger to be flushed; each holds one.
	hurried []chan struct{}
	// behind has, per partition, whether Redis may lack a change that it would take by now: one that did not reach it, or
	// one from before the partition was opened. The sweeper then does not wait for the change's age.
	behind  []atomic.Bool
	batches sync.Pool // of *flushBatch: what one flush has used, for the next
	outages *outage.Watch

	keys  *lookups[keyHash, Identity]
	names *lookups[string, Identity]
	loads *lookups[string, loaded]
}

// connectTimeout bounds dialling, so that a database that is away is noticed and not waited for.
const connectTimeout = 5 * time.Second

// Open prepares a store on url, whose time is clock's; nil is the system's. It does not connect: a gateway starts, and
// goes on, while Postgres is away.
func Open(ctx context.Context, url string, layout meter.Layout, clock *meter.Clock) (*Store, error) {
	if layout.Number == 0 || layout.Partitions == 0 || layout.Partitions > meter.PartitionsMax {
		return nil, fmt.Errorf("%w: number %d with %d partitions; the number starts at 1, the partitions go from 1 to %d",
			ErrLayout, layout.Number, layout.Partitions, meter.PartitionsMax)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("postgres_url: %w", err) // pgx hides the password
	}
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.ConnConfig.RuntimeParams["application_name"] = "creditgate"
	leaveReadOnly(config.ConnConfig)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	asked, err := openLookups(ctx, config.Copy())
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database for lookups: %w", err)
	}
	if clock == nil {
		clock = new(meter.Clock)
	}
	s := &Store{
		pool: pool, asked: asked, layout: layout, clock: clock, hurried: make([]chan struct{}, layout.Partitions),
		behind: make([]atomic.Bool, layout.Partitions),
	}
	for p := range s.hurried {
		s.hurried[p] = make(chan struct{}, 1)
	}
	s.keys, s.names = newLookups(lookupsMax, lookupTimeout, s.findKeys), newLookups(lookupsMax, lookupTimeout, s.findNames)
	s.loads = newLookups(loadsMax, loadTimeout, s.loadAccounts)
	return s, nil
}

// leaveReadOnly closes a connection that refuses a write because it is read-only. A server or a pooler may give a session
// that property when it begins, for as long as the session lasts: the next connection reaches the primary of that moment.
func leaveReadOnly(config *pgx.ConnConfig) {
	before := config.OnPgError
	config.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		return err.Code != readOnlyTransaction && (before == nil || before(conn, err))
	}
}

// hurry lets this process' flusher of a partition, if it is the one that works, not wait for more: what was asked for
// is an account or an outcome, and whoever asks will ask again until the cursor has passed what Redis had.
func (s *Store) hurry(partition int) {
	select {
	case s.hurried[partition] <- struct{}{}:
	default:
	}
}

// Close waits for calls under way and closes the connections.
func (s *Store) Close() {
	s.pool.Close()
	s.asked.Close()
}

// Pool is the store's connections, for the packages below this one.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// Layout is the one the store was opened with.
func (s *Store) Layout() meter.Layout { return s.layout }

// EnsureLayout records the layout in an empty database, and returns ErrLayout if the database has another one: the
// same account would be looked for in another partition.
func (s *Store) EnsureLayout(ctx context.Context) error {
	return s.tx(ctx, "check layout", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO creditgate.layout (number, partitions) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
			int(s.layout.Number), int(s.layout.Partitions))
		if err != nil {
			return err
		}
		var number, partitions int
		err = tx.QueryRow(ctx, `SELECT number, partitions FROM creditgate.layout WHERE current`).Scan(&number, &partitions)
		if err != nil {
			return err
		}
		if number != int(s.layout.Number) || partitions != int(s.layout.Partitions) {
			return fmt.Errorf("%w: the database has layout %d, partitions %d; this gateway is set to layout %d, partitions %d; "+
				"set it to the database's, or drain and rebuild under a new number",
				ErrLayout, number, partitions, s.layout.Number, s.layout.Partitions)
		}
		_, err = tx.Exec(ctx, `INSERT INTO creditgate.partition (layout, partition)
			SELECT $1, p FROM generate_series(0, $2 - 1) p ON CONFLICT DO NOTHING`, number, partitions)
		return err
	})
}

// partitionOf is the account's partition in the types that Postgres takes.
func (s *Store) partitionOf(account string) int { return int(s.layout.PartitionOf(account)) }

func (s *Store) layoutNumber() int { return int(s.layout.Number) }

// tx runs fn in a transaction and commits it. fn's error rolls back and is returned as it is, but for
// ErrUnavailable, which is added where it applies.
func (s *Store) tx(ctx context.Context, doing string, fn func(pgx.Tx) error) error {
	return storeError(doing, pgx.BeginFunc(ctx, s.pool, fn))
}

// snapshot runs fn on one consistent view of the database.
func (s *Store) snapshot(ctx context.Context, doing string, fn func(pgx.Tx) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return storeError(doing, pgx.BeginTxFunc(ctx, s.pool, options, fn))
}

// violates reports whether err is a violation of the given SQLSTATE, and names the constraint.
func violates(err error, code string) (constraint string, ok bool) {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == code {
		return pg.ConstraintName, true
	}
	return "", false
}

// fromMs and toMs convert between Unix milliseconds, in which Redis counts, and Postgres' timestamps. meter.Never is
// NULL there.
func fromMs(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func expiryToMs(t *time.Time) int64 {
	if t == nil {
		return meter.Never
	}
	return t.UnixMilli()
}

// optionalTime is nil for the zero time, which means never.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

func timeOrZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// NameActor tells a transaction who is behind it, for changes whose rows do not say so; see creditgate.audit.
func NameActor(ctx context.Context, tx pgx.Tx, actor string) error {
	_, err := tx.Exec(ctx, `SELECT set_config('creditgate.actor', $1, true)`, actor)
	return err
}
