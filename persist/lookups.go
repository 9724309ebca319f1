package persist

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Bounds of questions that many ask at once.
const (
	// lookupFlights are the queries of one kind under way: while one waits for a disk, the other goes on.
	lookupFlights = 2
	// lookupsMax bounds the keys of one query: some 5 ms of Postgres when what they need is in memory.
	lookupsMax = 512
	// loadsMax bounds the accounts that one query loads: each may have meter.GrantsMax grants.
	loadsMax = 128
	// lookupsWaiting bounds what waits for a query, of one kind: a hundred queries' worth, so that more would only wait
	// for nothing.
	lookupsWaiting = 100 * lookupsMax
	// lookupTimeout bounds one query for keys or names. Whoever asked may have less time, and then leaves it to the others.
	lookupTimeout = 2 * time.Second
	// loadTimeout bounds one that loads: a partition that is rebuilt reads every account, after a start from a cold disk
	// too, and begins anew when one query fails.
	loadTimeout = 30 * time.Second
	// lookupKinds is how many kinds of questions there are: keys, accounts by name, accounts to load.
	lookupKinds = 3
)

// lookups coalesces questions: whatever queued while the queries before were out goes with the next one. Nothing waits
// on a timer, and a question that is alone is sent at once. Who asks what is queued already shares the answer. Who asks
// what is under way does not: an answer is never older than the question, since a change made before it must be seen.
type lookups[K comparable, V any] struct {
	most    int           // keys in one query …
	timeout time.Duration // … and how long it may take
	// find answers in one query. What it leaves out does not exist.
	find func(ctx context.Context, keys []K) (map[K]V, error)

	mu     sync.Mutex
	queue  []*question[K, V]
	queued map[K]*question[K, V] // those in queue, by key
	flying int
}

// question is a key that somebody waits for.
type question[K comparable, V any] struct {
	key    K
	asking int // under mu: without anybody it is not sent
	done   chan struct{}
	answer V
	known  bool
	err    error
}

func newLookups[K comparable, V any](
	most int, timeout time.Duration, find func(context.Context, []K) (map[K]V, error),
) *lookups[K, V] {
	return &lookups[K, V]{most: most, timeout: timeout, find: find, queued: make(map[K]*question[K, V])}
}

// ask returns what is known of a key; known is false if it does not exist.
func (l *lookups[K, V]) ask(ctx context.Context, key K) (answer V, known bool, err error) {
	l.mu.Lock()
	q := l.queued[key]
	if q == nil {
		if len(l.queue) >= lookupsWaiting {
			l.mu.Unlock()
			return answer, false, fmt.Errorf("%w: %d questions wait for it", ErrUnavailable, lookupsWaiting)
		}
		q = &question[K, V]{key: key, done: make(chan struct{})}
		l.queue, l.queued[key] = append(l.queue, q), q
	}
	q.asking++
	if l.flying < lookupFlights {
		l.flying++
		go l.fly(context.WithoutCancel(ctx)) // whoever was first may leave, and others wait for it too
	}
	l.mu.Unlock()
	select {
	case <-q.done:
		return q.answer, q.known, q.err
	case <-ctx.Done():
		l.mu.Lock()
		q.asking--
		l.mu.Unlock()
		return answer, false, ctx.Err()
	}
}

// fly sends queries until nothing waits.
func (l *lookups[K, V]) fly(ctx context.Context) {
	for {
		batch := l.take()
		if len(batch) == 0 {
			return
		}
		keys := make([]K, len(batch))
		for i, q := range batch {
			keys[i] = q.key
		}
		ctx, cancel := context.WithTimeout(ctx, l.timeout)
		found, err := l.find(ctx, keys)
		cancel()
		for _, q := range batch {
			q.answer, q.known = found[q.key]
			q.err = err
			close(q.done)
		}
	}
}

// take removes those from the queue that go with the next query. With none, the caller flies no more.
func (l *lookups[K, V]) take() (batch []*question[K, V]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for ; n < len(l.queue) && len(batch) < l.most; n++ {
		q := l.queue[n]
		delete(l.queued, q.key)
		if q.asking > 0 {
			batch = append(batch, q)
		}
	}
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
	if len(batch) == 0 {
		l.flying--
	}
	return batch
}

// openLookups prepares the connections for lookups, apart from the others: an issuer at work does not hold them up, and
// however many keys somebody guesses, the rest of the house has connections left. Their plans are made once, for any
// number of keys, since planning costs more than a few keys do, and go by index whatever the tables' sizes were then.
func openLookups(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	config.MinConns, config.MaxConns = 0, lookupKinds*lookupFlights
	config.ConnConfig.RuntimeParams["application_name"] = "creditgate lookups"
	// Not with the first message: a pooler in between may refuse parameters there that it does not know.
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SET plan_cache_mode = force_generic_plan;
			SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off`)
		return err
	}
	return pgxpool.NewWithConfig(ctx, config)
}
