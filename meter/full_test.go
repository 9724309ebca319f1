package meter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// ran is how often Redis ran a function of the library.
func ran(t *testing.T, c redis.UniversalClient) string {
	t.Helper()
	stats, err := c.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	n, _, _ := strings.Cut(strings.TrimPrefix(stats["Commandstats"]["cmdstat_fcall"], "calls="), ",")
	return n
}

// A Redis that is full takes on no reservations, and settles what is held all the same, also when both are in one
// flight. Before that, and after it, both are in one call.
func TestFullRedisSettlesAndReservesNothing(t *testing.T) {
	t.Parallel()
	w := newFlights(t, 1, 3, 1)
	e, account := w.engine, w.accounts[0]
	reserve := func() (meter.ReservationID, *meter.Op) {
		id := e.NewReservationID(account)
		return id, meter.ReserveOp(meter.Reserve{ID: id, Account: account, Amount: meter.Credit, Lease: time.Minute})
	}
	held, first := reserve()
	_, err := e.Fly(first)
	require.NoError(t, err)
	// mixed sends a reservation and the settlement of what is held in one flight, which must be settled.
	mixed := func() (reserved *meter.Op, calls string) {
		t.Helper()
		require.NoError(t, e.Redis().ConfigResetStat(t.Context()).Err())
		id, r := reserve()
		s := meter.CommitOp(meter.Settle{ID: held, Account: account, Amount: meter.Credit}, false)
		require.NoError(t, e.FlyAll(r, s))
		require.NoError(t, s.Err())
		require.Equal(t, meter.CodeOK, s.Code())
		held = id
		return r, ran(t, e.Redis())
	}
	r, calls := mixed()
	require.NoError(t, r.Err())
	require.Equal(t, meter.CodeOK, r.Code())
	require.Equal(t, "1", calls)

	require.NoError(t, e.Redis().ConfigSet(t.Context(), "maxmemory", "1").Err())
	r, calls = mixed()
	require.ErrorIs(t, r.Err(), meter.ErrUnavailable)
	require.ErrorIs(t, r.Err(), meter.ErrNotSent, "nothing is held, so nothing has to be released")
	require.Equal(t, "1", calls, "the settlement's, and no other one was run")

	require.NoError(t, e.Redis().ConfigSet(t.Context(), "maxmemory", "0").Err())
	require.Eventually(t, func() bool {
		held, r = reserve()
		_, err := e.Fly(r)
		require.NoError(t, err)
		r, calls = mixed()
		require.NoError(t, r.Err())
		return calls == "1"
	}, patience, 50*time.Millisecond, "both go together again")
}
