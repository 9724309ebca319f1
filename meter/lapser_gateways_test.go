package meter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// giftLapses gives an account credit for a second, and waits until somebody has booked its end.
func (b *testBundle) giftLapses(account string) {
	b.t.Helper()
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: "promo", Available: meter.Credit, ExpiresMs: time.Now().Add(time.Second).UnixMilli(),
	}
	b.book.AddAccount(account)
	b.book.AddLot(g)
	_, err := b.engine.Grant(b.t.Context(), meter.GrantChange{Account: account, Grant: g})
	require.NoError(b.t, err)
	b.flush()
	require.Eventually(b.t, func() bool {
		d, err := b.engine.Balance(b.t.Context(), account)
		return err == nil && len(d.Account.Grants) == 0
	}, patience, 20*time.Millisecond)
}

// A gateway that has no partition open leaves the lock to one that has.
func TestAGatewayWithNothingOpenBooksNoLapses(t *testing.T) {
	t.Parallel()
	b := &testBundle{t: t, server: redisd.Test(t), layout: meter.Layout{Number: 1, Partitions: 1}}
	b.book = metertest.NewBook(b.layout)
	claimed := make(chan uint16, 1)
	stuck := &hookBook{Book: b.book, onClaim: func(p uint16) {
		claimed <- p
		<-t.Context().Done()
	}}
	b.startWith(b.server.URL(), stuck, nil)
	<-claimed
	b.engine = b.startWith(b.server.URL(), &hookBook{Book: b.book}, nil)
	b.eventuallyOpen(b.engine)
	b.giftLapses("acme")
}

// A gateway that has some partitions open, but not the one in which something is due, leaves the lock to others for a
// while: it would keep it for as long as it lives, and the grant would stay.
func TestAGatewayLeavesWhatItCannotBookToOthers(t *testing.T) {
	t.Parallel()
	b := &testBundle{t: t, server: redisd.Test(t), layout: meter.Layout{Number: 1, Partitions: 2}}
	b.book = metertest.NewBook(b.layout)
	shut := b.layout.PartitionOf("acme")
	partly := &hookBook{Book: b.book, onClaim: func(p uint16) {
		if p == shut {
			<-t.Context().Done()
		}
	}}
	first := b.startWith(b.server.URL(), partly, nil)
	holder := func() string { return b.raw().Get(t.Context(), "creditgate:lapser").Val() }
	require.Eventually(t, func() bool { return holder() != "" }, patience, 10*time.Millisecond)
	held := holder()
	require.NotEqual(t, "open", first.Ready()[shut].State)

	b.engine = b.startWith(b.server.URL(), &hookBook{Book: b.book}, nil)
	b.eventuallyOpen(b.engine)
	require.Equal(t, held, holder(), "the first one has it until it finds what it cannot book")
	b.giftLapses("acme")
}

// Who asks for all that is due is told of what could not be booked.
func TestLapsesInAClosedPartitionAreAnError(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	b.ends()
	p := b.layout.PartitionOf("acme")
	require.NoError(t, metertest.EditMeta(t.Context(), b.raw(), b.layout.Keys(p), func(m *meter.Meta) { m.Torn = true }))
	_, _ = b.engine.Balance(t.Context(), "acme") // is told, and closes the partition
	err := b.engine.LapseNow(t.Context())
	require.ErrorIs(t, err, meter.ErrUnavailable)
	require.ErrorContains(t, err, "1 grants have ended in partitions that are not open")
}

// Two gateways at once, and one of them again before Postgres knows: one entry.
func TestLapsesOfTwoGateways(t *testing.T) {
	t.Parallel()
	b := newLapseBundle(t)
	b.gift(b.engine, "acme")
	other := b.moved(b.clock)
	b.ends()
	for range 2 {
		done := make(chan error, 2)
		for _, e := range []*meter.Engine{b.engine, other} {
			go func() { done <- e.LapseDue(t.Context()) }()
		}
		require.NoError(t, errors.Join(<-done, <-done))
	}
	b.flush()
	require.Equal(t, 1, b.lapses())
}
