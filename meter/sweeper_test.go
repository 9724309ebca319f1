package meter_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// putHold writes what an open reservation whose lease is long over looks like.
func (b *testBundle) putHold(c redis.UniversalClient, account string) {
	b.t.Helper()
	id := meter.NewID(time.Now())
	packed := meter.AppendReservation(nil, meter.Reservation{
		State: meter.Held, Amount: 1, Account: account, DeadlineMs: 1,
		Draws: []meter.Draw{{Grant: id, Amount: 1}},
	})
	keys := b.layout.Keys(b.layout.PartitionOf(account))
	require.NoError(b.t, c.HSet(b.t.Context(), keys.Open(), string(id[:]), packed).Err())
}

// What cannot be swept is counted, and everything else of the partition is swept.
func TestOneBadHoldHarmsNoNeighbour(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.keepFlushing()
	b.eventuallyOpen(b.engine)
	c, keys := b.raw(), b.layout.Keys(b.layout.PartitionOf("acme"))
	ghost := b.neighbour("acme")
	other := b.neighbour("acme", ghost)
	require.NoError(t, c.Set(t.Context(), keys.Account("acme"), "\x09 not an account", 0).Err())
	b.putHold(c, "acme")
	b.putHold(c, ghost)
	require.NoError(t, c.HSet(t.Context(), keys.Open(), string(make([]byte, 16)), "\x09 not a reservation").Err())

	// The account is written first: the unreadable hold would keep it from being loaded, and rightly so.
	require.NoError(t, c.Set(t.Context(), keys.Account(other), meter.AppendAccount(nil, meter.Account{}), 0).Err())
	b.book.AddAccount(other)
	now := time.Now().UnixMilli()
	for _, lot := range []meter.Grant{
		{ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: now + 1500},
		{ID: meter.NewID(time.Now()), Bucket: "monthly", Rank: 1, Available: meter.Credit, ExpiresMs: meter.Never},
	} {
		b.book.AddLot(lot)
		_, err := b.engine.Grant(t.Context(), meter.GrantChange{Account: other, Grant: lot})
		require.NoError(t, err)
	}
	d, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: b.engine.NewReservationID(other), Account: other, Amount: meter.Credit + 1, Lease: meter.LeaseMin,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	require.Eventually(t, func() bool {
		d, err := b.engine.Balance(t.Context(), other)
		return err == nil && d.Account.Holds == 0 && len(d.Account.Grants) == 1
	}, patience, 20*time.Millisecond, "the neighbour's lease ends and its grant lapses")
	require.Eventually(t, func() bool { return b.engine.SweepSkipped("hold") >= 3 }, patience, 20*time.Millisecond)
}

// Held 0 within lease + 5 s also when the sweeper died: a second for a sweep, the lock, and the time of the work.
func TestSweepLockIsShort(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.eventuallyOpen(b.engine)
	c := b.raw()
	require.Eventually(t, func() bool {
		left := c.PTTL(t.Context(), "{cg1:00}:sweeper").Val()
		require.LessOrEqual(t, left, 3*time.Second)
		return left > 0
	}, patience, 5*time.Millisecond)
}

// neighbour is a name in the same partition, other than these.
func (b *testBundle) neighbour(names ...string) string {
	for i := 0; ; i++ {
		n := "n" + strconv.Itoa(i)
		if b.layout.PartitionOf(n) == b.layout.PartitionOf(names[0]) && !slices.Contains(names, n) {
			return n
		}
	}
}
