package meter_test

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// closing is a partition with an account that has 3 credits, 2 of its records flushed, and what closes it.
type closing struct {
	*testBundle

	book   *hookBook
	client redis.UniversalClient
	keys   meter.Keys
}

func (c *closing) do(args ...any) {
	require.NoError(c.t, c.client.Do(context.Background(), args...).Err())
}

func (c *closing) meta(edit func(m *meter.Meta)) {
	require.NoError(c.t, metertest.EditMeta(context.Background(), c.client, c.keys, edit))
}

// restart runs another gateway in place of the one that has the partition open.
func (c *closing) restart() { c.engine = c.startWith(c.server.URL(), c.book, nil) }

func (c *closing) cursor(edit func(at meter.Cursor) (meter.Cursor, error)) { c.book.onCursor = edit }

// TestEveryClosedPartitionSaysTheWayOut closes a partition for each reason, reads what to do, does it, and the partition
// opens by itself.
func TestEveryClosedPartitionSaysTheWayOut(t *testing.T) {
	t.Parallel()
	later := func(m *meter.Meta) { m.Incarnation = "abc" } // as after a restart, so that it is opened again
	for name, reason := range map[string]struct {
		close    func(c *closing)
		what, to string
		open     func(c *closing) // nil: by emptying the partition with the command that is shown
	}{
		"Redis is an older copy": {
			func(c *closing) { c.meta(func(m *meter.Meta) { later(m); m.Pseq-- }) },
			"Postgres has 1 ledger records more than Redis: this Redis is an older copy", "start the Redis that has these records", nil,
		},
		"Postgres is older than the rebuild": {
			func(c *closing) { c.meta(func(m *meter.Meta) { later(m); m.Base, m.Pseq = m.Base+7, m.Pseq+7 }) },
			"Postgres has lost 5 ledger records since Redis was rebuilt from it", "restore the Postgres", nil,
		},
		"Postgres is older than trim_lag": {
			func(c *closing) {
				c.meta(func(m *meter.Meta) { later(m); m.Pseq += 2 })
				c.do("XADD", c.keys.Ledger(), "1-4", "e", "x")
				c.do("XTRIM", c.keys.Ledger(), "MINID", "1-4")
			},
			"Redis has dropped what was flushed before 4: Postgres has lost 1 records", "restore the Postgres", nil,
		},
		"fork": {
			func(c *closing) {
				c.meta(later)
				c.do("DEL", c.keys.Ledger())
				c.do("XADD", c.keys.Ledger(), "1-1", "e", "x")
				c.do("XADD", c.keys.Ledger(), "1-2", "e", "another")
			},
			"record 1-2 in Redis is not the one in Postgres: their histories have forked", "belongs to the other one", nil,
		},
		"torn": {
			func(c *closing) { c.meta(func(m *meter.Meta) { m.Torn = true }) },
			"a write failed half-way in Redis", "empty the partition", nil,
		},
		"meta lost": {
			func(c *closing) { c.do("DEL", c.keys.Meta()) },
			"Redis has keys of the partition but not its head ({cg1:00}:meta)", "restore the data of this Redis", nil,
		},
		"another version's values": {
			func(c *closing) { c.do("SET", c.keys.Meta(), "\x01old"); c.restart() },
			"the values in Redis are of another version of creditgate", "run the version that wrote them", nil,
		},
		"a clock was ahead": {
			func(c *closing) {
				c.meta(func(m *meter.Meta) { later(m); m.LastMs = time.Now().Add(time.Hour).UnixMilli() })
			},
			"a clock was ahead", "wait until that time, when it opens by itself", nil,
		},
		"another layout": {
			func(c *closing) { c.meta(later); c.do("SET", "creditgate:layout", "1/4") },
			"Redis was filled under layout 1/4, this gateway has 1/1", "set layout and partitions",
			func(c *closing) { c.do("SET", "creditgate:layout", "1/1") },
		},
		"unsafe settings": {
			func(c *closing) { c.meta(later); c.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru") },
			`maxmemory-policy is "allkeys-lru"`, "CONFIG SET appendonly yes maxmemory-policy noeviction",
			func(c *closing) { c.do("CONFIG", "SET", "appendonly", "yes", "maxmemory-policy", "noeviction") },
		},
		"a replica": {
			func(c *closing) { c.do("REPLICAOF", "127.0.0.1", "1"); c.restart() },
			"READONLY", "REPLICAOF NO ONE", func(c *closing) { c.do("REPLICAOF", "NO", "ONE") },
		},
		"a user who may not": {
			func(c *closing) { c.meta(later); c.do("ACL", "SETUSER", "default", "-function") },
			"NOPERM", "ACL SETUSER USER +COMMAND", func(c *closing) { c.do("ACL", "SETUSER", "default", "+function") },
		},
		"Postgres away": {
			func(c *closing) {
				c.cursor(func(at meter.Cursor) (meter.Cursor, error) { return at, errors.New("connection refused") })
				c.meta(later)
			},
			"Postgres does not answer, and Redis must be compared with it: cursor in Postgres: connection refused", "start Postgres",
			func(c *closing) { c.cursor(nil) },
		},
		"Redis away": {
			func(c *closing) { require.NoError(c.t, c.server.Kill()); c.restart() },
			"connection refused", "start Redis, or set redis_url right",
			func(c *closing) { require.NoError(c.t, c.server.Restart(context.Background())) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := openClosing(t)
			reason.close(c)
			var s meter.PartitionState
			require.Eventually(t, func() bool {
				_, _ = c.engine.Balance(t.Context(), "acme") // notices it
				s = c.engine.Ready()[0]
				return s.State == "fenced" && regexp.MustCompile(regexp.QuoteMeta(reason.what)).MatchString(s.Reason)
			}, patience, 20*time.Millisecond, "%+v", &s)
			require.Contains(t, s.Do, reason.to)
			require.NotContains(t, s.Do, `"`, "it is pasted from JSON")
			if reason.open == nil {
				require.Contains(t, s.Cost, "the charges in ledger records that only Redis has")
				c.typeCommand(s.Do)
			} else {
				require.Empty(t, s.Cost)
				reason.open(c)
			}
			c.eventuallyOpen(c.engine)
			available, held := c.balance("acme")
			require.Equal(t, [2]meter.Credits{3000, 0}, [2]meter.Credits{available, held})
		})
	}
}

func openClosing(t *testing.T) *closing {
	t.Helper()
	b := &testBundle{t: t, server: redisd.Test(t), layout: meter.Layout{Number: 1, Partitions: 1}}
	b.book = metertest.NewBook(b.layout)
	hooked := &hookBook{Book: b.book}
	b.engine = b.startWith(b.server.URL(), hooked, nil)
	b.account("acme", meter.Credit, 2*meter.Credit)
	b.flush()
	return &closing{testBundle: b, book: hooked, client: b.raw(), keys: b.layout.Keys(0)}
}

// typeCommand runs the redis-cli EVAL that a text shows.
func (c *closing) typeCommand(text string) {
	c.t.Helper()
	shown := regexp.MustCompile(`redis-cli -c -u REDIS_URL EVAL '([^']+)' 1 '([^']+)' '([^']+)'`).FindStringSubmatch(text)
	require.Len(c.t, shown, 4, text)
	n, err := c.client.Eval(context.Background(), shown[1], []string{shown[2]}, shown[3]).Int()
	require.NoError(c.t, err)
	require.Positive(c.t, n)
}
