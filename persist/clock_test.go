package persist_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

func TestOnlyAnEmptyDatabaseBecomesATestDatabase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		accounts bool
		asked    []bool // by gateways, one after the other
		refused  []bool
	}{
		"production":                   {false, []bool{false, false, true, false}, []bool{false, false, true, false}},
		"test":                         {false, []bool{true, true, false, true}, []bool{false, false, true, false}},
		"accounts from before":         {true, []bool{true, false, true}, []bool{true, false, true}},
		"production with accounts":     {true, []bool{false, true}, []bool{false, true}},
		"refused, and then production": {true, []bool{true, true, false}, []bool{true, true, false}},
	} {
		b := setup(t)
		if c.accounts {
			b.putAccount(t, "ada")
		}
		for i, test := range c.asked {
			err := b.store.EnsureClock(t.Context(), test)
			require.Equal(t, c.refused[i], errors.Is(err, persist.ErrTestClock), "%s: gateway %d: %v", name, i, err)
			require.True(t, c.refused[i] || err == nil, "%s: gateway %d: %v", name, i, err)
		}
	}
}

// Of gateways that start together on an empty database, one kind is refused, whichever is first.
func TestOneGatewayDecidesForAll(t *testing.T) {
	t.Parallel()
	url := persisttest.DB(t)
	var test, production atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		store := persisttest.Open(t, url, layout)
		all.Go(func() {
			if store.EnsureClock(context.Background(), i%2 == 0) != nil {
				return
			}
			if i%2 == 0 {
				test.Add(1)
			} else {
				production.Add(1)
			}
		})
	}
	all.Wait()
	require.ElementsMatch(t, []int64{0, 4}, []int64{test.Load(), production.Load()})
}

func TestGatewaysFollowTheClock(t *testing.T) {
	t.Parallel()
	url := persisttest.DB(t)
	clocks := [2]*meter.Clock{new(meter.Clock), new(meter.Clock)}
	var moving [2]*persist.TestClock
	var done []string
	for i, c := range clocks {
		store := persisttest.OpenAt(t, url, layout, c)
		require.NoError(t, store.EnsureClock(t.Context(), true))
		moving[i] = persist.NewTestClock(store, zerolog.Nop(),
			func(context.Context) error { done = append(done, "issue"); return nil },
			func(context.Context) error { done = append(done, c.Offset().String()); return nil })
	}
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { moving[1].Run(ctx) })
	t.Cleanup(func() { stop(); work.Wait() })

	require.NoError(t, moving[0].Advance(t.Context(), 36*time.Hour))
	require.Equal(t, []string{"issue", "36h0m0s"}, done, "what is due is done, in order, at the new time")
	require.Equal(t, 36*time.Hour, clocks[0].Offset())
	require.Eventually(t, func() bool { return clocks[1].Offset() == 36*time.Hour }, 20*time.Second, 5*time.Millisecond)

	require.ErrorIs(t, moving[0].MoveTo(t.Context(), time.Now()), persist.ErrClockBack)
	require.ErrorIs(t, moving[0].Advance(t.Context(), -time.Second), persist.ErrClockBack)
	require.ErrorIs(t, moving[0].Advance(t.Context(), 201*365*24*time.Hour), persist.ErrInvalid)
	require.Equal(t, 36*time.Hour, clocks[0].Offset())
	require.NoError(t, moving[0].Advance(t.Context(), 0), "only what is due is done")
	require.NoError(t, moving[1].MoveTo(t.Context(), time.Now().AddDate(10, 0, 0)))
	require.Greater(t, clocks[1].Offset(), 3650*24*time.Hour)

	late := new(meter.Clock)
	require.NoError(t, persisttest.OpenAt(t, url, layout, late).EnsureClock(t.Context(), true))
	require.Equal(t, clocks[1].Offset(), late.Offset(), "who starts later begins there")
}

// What fails after the move does not turn it back, and is done by the next move.
func TestAMoveWhoseWorkFailsIsToldSo(t *testing.T) {
	t.Parallel()
	clock := new(meter.Clock)
	store := persisttest.OpenAt(t, persisttest.DB(t), layout, clock)
	require.NoError(t, store.EnsureClock(t.Context(), true))
	away := errors.New("Redis is away")
	err := away
	moving := persist.NewTestClock(store, zerolog.Nop(), func(context.Context) error { return err })
	require.ErrorIs(t, moving.Advance(t.Context(), time.Hour), away)
	require.Equal(t, time.Hour, clock.Offset())
	err = nil
	require.NoError(t, moving.Advance(t.Context(), 0))
	require.Equal(t, time.Hour, clock.Offset())
}

// Even by hand time does not go back, and a production database has none to move.
func TestPostgresRefusesThePast(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.store.EnsureClock(t.Context(), true))
	moving := persist.NewTestClock(b.store, zerolog.Nop())
	require.NoError(t, moving.Advance(t.Context(), time.Hour))
	owner := persisttest.AsOwner(t, b.url)
	refused(t, owner, `UPDATE creditgate.clock SET offset_ms = 0`)
	refused(t, owner, `UPDATE creditgate.clock SET test = false, offset_ms = 0`)
	refused(t, b.url, `DELETE FROM creditgate.clock`)

	p := setup(t)
	require.NoError(t, p.store.EnsureClock(t.Context(), false))
	require.ErrorIs(t, persist.NewTestClock(p.store, zerolog.Nop()).Advance(t.Context(), time.Hour), persist.ErrClockBack)
}

// Ids, dates and what is due are of the moved time.
func TestAdminChangesAreOfTheMovedTime(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.store.EnsureClock(t.Context(), true))
	b.clock.Set(1000 * 24 * time.Hour)
	id := b.addAccount(t, "ada")
	require.WithinDuration(t, b.clock.Now(), time.UnixMilli(id.CreatedMs()), time.Minute)
	a, err := b.admin.AccountState(t.Context(), "ada")
	require.NoError(t, err)
	require.WithinDuration(t, b.clock.Now(), a.CreatedAt, time.Minute)

	b.down = true
	_, err = b.admin.Grant(t.Context(), persist.NewGrant{Account: "ada", Bucket: "promo", Credits: 1, Ref: "pending"})
	require.NoError(t, err)
	due, err := b.store.Pending(t.Context(), 0, time.Hour, persist.PendingChange{}, 10)
	require.NoError(t, err)
	require.Empty(t, due, "it was asked for just now")
	b.clock.Set(1001 * 24 * time.Hour)
	due, err = b.store.Pending(t.Context(), 0, time.Hour, persist.PendingChange{}, 10)
	require.NoError(t, err)
	require.NotEmpty(t, due)
}

// A test clock may begin in the past, on a database that nobody has begun; from there it only goes forward.
func TestTestClockBeginsInThePast(t *testing.T) {
	t.Parallel()
	b := setup(t)
	past := time.Now().AddDate(-3, 0, 0)
	require.NoError(t, persist.BeginTestClock(t.Context(), b.url, past))
	require.ErrorIs(t, persist.BeginTestClock(t.Context(), b.url, past), persist.ErrTestClock, "begun already")
	require.ErrorIs(t, b.store.EnsureClock(t.Context(), false), persist.ErrTestClock)
	require.NoError(t, b.store.EnsureClock(t.Context(), true))
	clock := persist.NewTestClock(b.store, zerolog.Nop())
	require.WithinDuration(t, past, clock.Now(), time.Minute)
	require.ErrorIs(t, clock.MoveTo(t.Context(), past.Add(-time.Hour)), persist.ErrClockBack)
	require.NoError(t, clock.MoveTo(t.Context(), past.AddDate(1, 0, 0)))
	require.WithinDuration(t, past.AddDate(1, 0, 0), clock.Now(), time.Minute)

	used := setup(t)
	used.putAccount(t, "ada")
	require.ErrorIs(t, persist.BeginTestClock(t.Context(), used.url, past), persist.ErrTestClock, "it has real accounts")
}
