package persist_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// asked is a query that a test answers when it likes.
type asked struct {
	keys   []string
	answer chan error
}

// answered is what one caller got.
type answered struct {
	key    string
	answer string
	known  bool
	err    error
}

// counter asks questions, and has the queries for them.
type counter struct {
	*persist.Lookups[string, string]

	queries chan asked
	answers chan answered
	callers sync.WaitGroup
}

func newCounter(t *testing.T, most int) *counter {
	t.Helper()
	d := &counter{queries: make(chan asked), answers: make(chan answered, 2*persist.LookupsWaiting)}
	d.Lookups = persist.NewLookups(most, func(_ context.Context, keys []string) (map[string]string, error) {
		q := asked{slices.Clone(keys), make(chan error)}
		select {
		case d.queries <- q:
		case <-t.Context().Done(): // a test that failed
			return nil, t.Context().Err()
		}
		select {
		case err := <-q.answer:
			if err != nil {
				return nil, err
			}
		case <-t.Context().Done():
			return nil, t.Context().Err()
		}
		found := map[string]string{}
		for _, k := range keys {
			if k != "unknown" {
				found[k] = "answer to " + k
			}
		}
		return found, nil
	})
	t.Cleanup(d.callers.Wait)
	return d
}

// ask has a key asked for in the background and returns once it waits; asking is how many then wait for it.
func (d *counter) ask(ctx context.Context, t *testing.T, key string, asking int) {
	t.Helper()
	d.callers.Go(func() {
		answer, known, err := d.Ask(ctx, key)
		d.answers <- answered{key, answer, known, err}
	})
	d.await(t, key, asking)
}

func (d *counter) await(t *testing.T, key string, asking int) {
	t.Helper()
	require.Eventually(t, func() bool { return d.Asking(key) == asking }, 10*time.Second, time.Millisecond,
		"%d should wait for %s", asking, key)
}

// fill has every query under way.
func (d *counter) fill(t *testing.T) (under []asked) {
	t.Helper()
	for i := range persist.LookupFlights {
		key := fmt.Sprint("first-", i)
		d.callers.Go(func() {
			answer, known, err := d.Ask(t.Context(), key)
			d.answers <- answered{key, answer, known, err}
		})
		q := <-d.queries
		require.Equal(t, []string{key}, q.keys, "one that is alone is sent at once")
		under = append(under, q)
	}
	return under
}

func (d *counter) collect(n int) (got []answered) {
	for range n {
		got = append(got, <-d.answers)
	}
	slices.SortFunc(got, func(a, b answered) int {
		return slices.Compare([]string{a.key, a.answer}, []string{b.key, b.answer})
	})
	return got
}

// What waits while queries are out goes in one, each key once; what it does not find is unknown, and everybody gets the
// answer to what he asked.
func TestLookupsShareAQuery(t *testing.T) {
	t.Parallel()
	d := newCounter(t, 3)
	under := d.fill(t)
	for _, k := range []string{"a", "b", "unknown", "c"} {
		d.ask(t.Context(), t, k, 1)
	}
	d.ask(t.Context(), t, "a", 2)
	under[0].answer <- nil
	q := <-d.queries
	require.Equal(t, []string{"a", "b", "unknown"}, q.keys, "no more than three together, in their order")
	q.answer <- nil
	rest := <-d.queries
	require.Equal(t, []string{"c"}, rest.keys)
	rest.answer <- nil
	under[1].answer <- nil
	require.Equal(t, []answered{
		{"a", "answer to a", true, nil},
		{"a", "answer to a", true, nil},
		{"b", "answer to b", true, nil},
		{"c", "answer to c", true, nil},
		{"first-0", "answer to first-0", true, nil},
		{"first-1", "answer to first-1", true, nil},
		{"unknown", "", false, nil},
	}, d.collect(7))
}

// An answer is never older than the question: one that comes while the same is under way is asked by itself.
func TestLookupsAnswerNothingOld(t *testing.T) {
	t.Parallel()
	d := newCounter(t, 3)
	under := d.fill(t)
	d.ask(t.Context(), t, "first-0", 1)
	under[0].answer <- nil
	again := <-d.queries
	require.Equal(t, []string{"first-0"}, again.keys)
	again.answer <- nil
	under[1].answer <- nil
	d.collect(3)
}

// A caller who leaves takes nothing from others, and what nobody waits for is not sent.
func TestLookupsLeaveWithTheirCaller(t *testing.T) {
	t.Parallel()
	d := newCounter(t, 3)
	under := d.fill(t)
	ctx, leave := context.WithCancel(t.Context())
	d.ask(ctx, t, "both", 1)
	d.ask(t.Context(), t, "both", 2)
	d.ask(ctx, t, "nobody", 1)
	leave()
	for _, a := range d.collect(2) {
		require.ErrorIs(t, a.err, context.Canceled)
	}
	under[0].answer <- nil
	q := <-d.queries
	require.Equal(t, []string{"both"}, q.keys)
	q.answer <- nil
	under[1].answer <- nil
	require.Equal(t, answered{"both", "answer to both", true, nil}, d.collect(3)[0])
}

// A query's failure is that of all who share it, and of nobody else; and no more wait than may.
func TestLookupsFailTogether(t *testing.T) {
	t.Parallel()
	d := newCounter(t, persist.LookupsWaiting)
	under := d.fill(t)
	for i := range persist.LookupsWaiting {
		d.callers.Go(func() {
			key := strconv.Itoa(i)
			answer, known, err := d.Ask(t.Context(), key)
			d.answers <- answered{key, answer, known, err}
		})
	}
	require.Eventually(t, func() bool { return d.Waiting() == persist.LookupsWaiting }, 20*time.Second, time.Millisecond)
	_, _, err := d.Ask(t.Context(), "one too many")
	require.ErrorIs(t, err, persist.ErrUnavailable)
	broken := errors.New("broken")
	under[0].answer <- nil
	q := <-d.queries
	require.Len(t, q.keys, persist.LookupsWaiting)
	q.answer <- broken
	under[1].answer <- nil
	for _, a := range d.collect(persist.LookupsWaiting + persist.LookupFlights) {
		if a.known {
			require.Contains(t, a.key, "first-")
		} else {
			require.ErrorIs(t, a.err, broken)
		}
	}
}

// Many at once get what each asked for, of keys and of accounts.
func TestIdentitiesOfMany(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const many = 40
	hash := func(i int) [32]byte { return sha256.Sum256(fmt.Append(nil, "sk-", i)) }
	name := func(i int) string { return fmt.Sprint("account-", i) }
	for i := range many {
		b.putAccount(t, name(i))
		_, err := b.store.CreateKey(t.Context(), persist.NewKey{Account: name(i), KeyID: meter.NewID(time.Now()).String(), Hash: hash(i)})
		require.NoError(t, err)
		if i%2 == 0 {
			b.term(t, name(i), 1, time.Now().Add(-time.Hour), "basic", i+1, false)
			b.override(t, name(i), name(i), "unit_credits", "apply", int64(i+1), time.Now().Add(-time.Hour), nil)
		}
	}
	var all sync.WaitGroup
	for i := range 2 * many {
		all.Go(func() {
			who, err := b.store.IdentityByKey(t.Context(), hash(i))
			named, err2 := b.store.IdentityByAccount(t.Context(), name(i))
			if i >= many {
				require.ErrorIs(t, err, persist.ErrNoKey)
				require.ErrorIs(t, err2, meter.ErrNoAccount)
				return
			}
			require.NoError(t, errors.Join(err, err2))
			require.Equal(t, name(i), who.Account)
			who.KeyID = ""
			require.Equal(t, who, named)
			if i%2 == 1 {
				require.Empty(t, who.Terms)
				require.Empty(t, who.Prices)
				return
			}
			require.Equal(t, uint32(i+1), who.Terms[0].Slots)
			require.Equal(t, meter.Credits(i+1), who.Prices[0].Credits)
		})
	}
	all.Wait()
}

// What is agreed with an account is seen by the look-up after it, be it the first of its kind or not.
func TestIdentityHasWhatWasAgreedBefore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "acme")
	writer, err := pgx.Connect(t.Context(), b.url)
	require.NoError(t, err)
	defer func() { require.NoError(t, writer.Close(context.WithoutCancel(t.Context()))) }()
	for n := 1; n <= 3; n++ { // as the gateway's login
		_, err := writer.Exec(t.Context(), `INSERT INTO creditgate.subscription_term
			(account, n, at, plan, slots, anchor, fingerprint) VALUES ('acme', $1, $2, 'basic', $1, $2, pg_catalog.sha256(''))`,
			n, time.Now().Add(-time.Hour).Add(time.Duration(n)*time.Second))
		require.NoError(t, err)
		who, err := b.store.IdentityByAccount(t.Context(), "acme")
		require.NoError(t, err)
		term, ok := who.Terms.At(time.Now())
		require.True(t, ok)
		require.Equal(t, uint32(n), term.Slots)
	}
}

// The plans that are made when the tables are empty, and then kept, go by index.
func TestLookupsNeverReadTables(t *testing.T) {
	t.Parallel()
	pool, err := persist.OpenLookups(t.Context(), persisttest.DB(t))
	require.NoError(t, err)
	defer pool.Close()
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for sql, args := range map[string]string{
		persist.IdentitiesByKey:     "NULL, now(), 16, 256",
		persist.IdentitiesByAccount: "NULL, now(), 16, 256",
		persist.LiveGrants:          "NULL, now()",
		persist.LoadedAccounts:      "NULL",
	} {
		_, err := conn.Exec(t.Context(), "DEALLOCATE ALL", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "PREPARE q AS "+sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		rows, err := conn.Query(t.Context(), "EXPLAIN EXECUTE q ("+args+")", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		require.NotContains(t, plan, "Seq Scan")
		require.NotContains(t, plan, "Hash Join")
		require.NotContains(t, plan, "Merge Join")
		require.Contains(t, plan, "= ANY ($1)", "for any number of keys, not for those of the first query")
	}
}
