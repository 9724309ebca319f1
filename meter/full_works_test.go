package meter_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// fill makes Redis full, and counts anew what it rejects.
func fill(t *testing.T, c redis.UniversalClient) {
	t.Helper()
	require.NoError(t, c.ConfigSet(t.Context(), "maxmemory", "1").Err())
	require.NoError(t, c.ConfigResetStat(t.Context()).Err())
}

// rejected lists the commands that Redis rejected since it was filled, other than those that take on more: the
// functions that reserve, the library, and the probe that asks whether Redis takes more.
func rejected(t *testing.T, c redis.UniversalClient) (names []string) {
	t.Helper()
	stats, err := c.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	for name, figures := range stats["Commandstats"] {
		_, after, _ := strings.Cut(figures, "rejected_calls=")
		n, _, _ := strings.Cut(after, ",")
		if count, err := strconv.Atoi(n); err == nil && count > 0 && name != "cmdstat_function|load" && name != "cmdstat_eval" {
			names = append(names, name+" "+figures)
		}
	}
	return names
}

// A Redis that is full gets room again by what the engine does by itself: the ledger is read and trimmed, leases that
// are over end, grants that are over lapse, and a gateway that starts meanwhile does the same.
func TestFullRedisMakesRoomByItself(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.eventuallyOpen(b.engine)
	c := b.raw()
	b.account("acme", 5*meter.Credit)
	held, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: b.engine.NewReservationID("acme"), Account: "acme", Amount: meter.Credit, Lease: meter.LeaseMin,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, held.Code)
	settled := b.reserve("acme", meter.Credit)
	fill(t, c)

	_, err = b.engine.Commit(t.Context(), meter.Settle{ID: settled.Reservation.ID, Account: "acme", Amount: meter.Credit})
	require.NoError(t, err)
	b.flush()
	p := b.layout.PartitionOf("acme")
	head, err := b.engine.Ledger().Head(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, b.engine.Ledger().Flushed(t.Context(), p, head, head))
	records, err := c.XLen(t.Context(), b.layout.Keys(p).Ledger()).Result()
	require.NoError(t, err)
	require.LessOrEqual(t, records, int64(1), "the ledger is trimmed")
	require.Eventually(t, func() bool {
		_, held := b.balance("acme")
		return held == 0
	}, patience, 20*time.Millisecond, "the lease ends")
	b.flush()
	b.giftLapses("ends")
	other := b.startEngine()
	b.eventuallyOpen(other)
	require.Empty(t, rejected(t, c), "commands that must run when Redis is full")
}

// FUNCTION LOAD is one of the commands that a full Redis refuses. A gateway of another version, whose functions it does
// not have, settles, flushes and sweeps all the same, and reserves again once there is room.
func TestFullRedisWithoutTheLibrary(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.eventuallyOpen(b.engine)
	c := b.raw()
	b.account("acme", 5*meter.Credit)
	held := b.reserve("acme", meter.Credit)
	fill(t, c)
	require.NoError(t, c.FunctionFlush(t.Context()).Err())

	other := b.startEngine()
	b.eventuallyOpen(other)
	require.NoError(t, other.OpenNow(t.Context()))
	id := other.NewReservationID("acme")
	reserve := func() (meter.Decision, error) {
		return other.Reserve(t.Context(), meter.Reserve{ID: id, Account: "acme", Amount: meter.Credit, Lease: lease})
	}
	_, err := reserve()
	require.ErrorIs(t, err, meter.ErrUnavailable)
	require.ErrorIs(t, err, meter.ErrNotSent)
	d, err := other.Commit(t.Context(), meter.Settle{ID: held.Reservation.ID, Account: "acme", Amount: meter.Credit})
	require.NoError(t, err)
	require.Equal(t, meter.Committed, d.Reservation.State)
	b.flush()
	b.giftLapses("ends")

	require.NoError(t, c.ConfigSet(t.Context(), "maxmemory", "0").Err())
	require.Eventually(t, func() bool {
		d, err := reserve()
		return err == nil && d.Code == meter.CodeOK
	}, patience, 20*time.Millisecond)
}
