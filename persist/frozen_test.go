package persist_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// spender is an engine with a customer beside it, who asks for one credit after every change that Redis takes back or
// gives back: whatever lies open between two of them is spent.
type spender struct {
	*meter.Engine

	t       *testing.T
	account string
	greedy  bool
	got     int // requests that found something
}

func (s *spender) ask(ctx context.Context) {
	if !s.greedy {
		return
	}
	d, err := s.Reserve(ctx, meter.Reserve{
		ID: s.NewReservationID(s.account), Account: s.account, Amount: meter.Credit, Lease: time.Minute,
	})
	if err != nil {
		s.t.Error(err)
	}
	if d.Code == meter.CodeOK {
		s.got++
	}
}

func (s *spender) Revoke(ctx context.Context, r meter.Revocation) (meter.Decision, error) {
	d, err := s.Engine.Revoke(ctx, r)
	if err == nil {
		s.ask(ctx)
	}
	return d, err
}

func (s *spender) Reverse(ctx context.Context, r meter.Reversal) (meter.Decision, error) {
	d, err := s.Engine.Reverse(ctx, r)
	if err == nil {
		s.ask(ctx)
	}
	return d, err
}

// spendBetween puts a spender between the administrator and Redis.
func (h *house) spendBetween(t *testing.T, account string) *spender {
	t.Helper()
	s := &spender{Engine: h.engine, t: t, account: account}
	h.administer(t, s)
	return s
}

// Nothing of a frozen pack can be spent while it is charged back, by whoever asks at which moment.
func TestNothingIsSpentWhileAFrozenPackIsChargedBack(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]*persist.Booked{
		"on_overdue: freeze":                      booked(40, 10, 0),
		"on_overdue: freeze, clawback: write_off": booked(40, 0, 10),
	} {
		t.Run(settings, func(t *testing.T) {
			t.Parallel()
			h := openShop(t, settings)
			s := h.spendBetween(t, "ada")
			h.subscriber(t, "ada", "plus")
			h.buy(t, "ada", "small", "order-1")
			h.charge(t, "ada", 10, 10)
			require.Equal(t, persist.PurchaseFrozen, h.pay(t, "order-1", persist.PaymentOverdue, "late-1").State)
			begin, spent := make(chan struct{}), make(chan meter.Credits, 1)
			go func() { spent <- h.spend(t, begin, "ada", 200) }()
			close(begin)
			s.greedy = true
			require.Equal(t, want, h.takeBack(t, "ada", "order-1", "chargeback", "dispute-1", 0).Booked)
			require.Zero(t, <-spent)
			require.Zero(t, s.got)
			h.conserved(t)
			require.Equal(t, [][]any{{"unfrozen", int64(1)}}, h.query(t, `SELECT reason, count(*) FROM creditgate.ledger_entry
				WHERE kind = 'adjust' GROUP BY 1`), "the ledger says that the freezing ended, and when")
		})
	}
}

// Redis is away while a pack is frozen and charged back: what is recorded reaches it without a moment in which the pack
// could be spent, by whichever of the changes is applied first.
func TestFrozenAndChargedBackWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	h := openShop(t, "on_overdue: freeze")
	s := h.spendBetween(t, "ada")
	h.subscriber(t, "ada", "plus")
	h.buy(t, "ada", "small", "order-1")
	h.charge(t, "ada", 20, 20)
	require.Equal(t, persist.PurchaseFrozen, h.pay(t, "order-1", persist.PaymentOverdue, "late-1").State)
	h.requireNoDrift(t)
	require.NoError(t, h.redis.Kill())
	v := persist.NewRevocation{Account: "ada", PurchaseRef: "order-1", Ref: "dispute-1", Reason: "chargeback"}
	r, err := h.admin.Revoke(t.Context(), v)
	require.NoError(t, err)
	require.False(t, r.Applied)
	require.NoError(t, h.redis.Restart(t.Context()))
	require.Eventually(t, func() bool { // until Redis is open again
		_, err := h.engine.Balance(t.Context(), "ada")
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
	s.greedy = true
	require.NoError(t, h.sweeper().Sweep(t.Context()))
	require.Zero(t, s.got)
	require.Equal(t, booked(30, 20, 0), h.takeBack(t, "ada", "order-1", "chargeback", "dispute-1", 0).Booked)
	h.conserved(t)
}

// The unfreezing that goes with a chargeback is asked for by its own name: it comes with the chargeback, not before it.
func TestTheUnfreezingOfAChargebackGoesWithIt(t *testing.T) {
	t.Parallel()
	h := openShop(t, "on_overdue: freeze")
	s := h.spendBetween(t, "ada")
	h.subscriber(t, "ada", "plus")
	h.buy(t, "ada", "small", "order-1")
	h.pay(t, "order-1", persist.PaymentOverdue, "late-1")
	h.requireNoDrift(t)
	require.NoError(t, h.redis.Kill())
	v := persist.NewRevocation{Account: "ada", PurchaseRef: "order-1", Ref: "dispute-1", Reason: "chargeback"}
	_, err := h.admin.Revoke(t.Context(), v)
	require.NoError(t, err)
	frozen := h.query(t, `SELECT external_ref::text FROM creditgate.revocation WHERE reason = 'frozen'`)[0][0].(string)
	require.NoError(t, h.redis.Restart(t.Context()))
	s.greedy = true
	require.Eventually(t, func() bool {
		r, err := h.admin.Reverse(t.Context(), persist.NewReversal{Account: "ada", RevocationRef: frozen, Ref: "paid-after-all"})
		return err == nil && r.Applied
	}, 30*time.Second, 20*time.Millisecond)
	require.Zero(t, s.got)
	require.Zero(t, h.available(t, "ada"))
	require.Equal(t, booked(50, 0, 0), h.takeBack(t, "ada", "order-1", "chargeback", "dispute-1", 0).Booked)
	h.conserved(t)
}

// What comes back to a frozen pack, of a refund that is undone, is frozen by the next report, in one step with the rest;
// one chargeback then takes all of it back, and one payment would have given all of it back.
func TestFrozenTwiceIsFrozenOnce(t *testing.T) {
	t.Parallel()
	h := openShop(t, "on_overdue: freeze")
	s := h.spendBetween(t, "ada")
	h.subscriber(t, "ada", "plus")
	h.buy(t, "ada", "small", "order-1")
	h.takeBack(t, "ada", "order-1", "refund", "refund-1", 10*meter.Credit)
	h.pay(t, "order-1", persist.PaymentOverdue, "late-1")
	h.pay(t, "order-1", persist.PaymentOverdue, "late-2")
	require.Zero(t, h.available(t, "ada"))
	require.Equal(t, undone(10, 0, 0), h.reverse(t, "ada", "refund-1", "won-1").Undone)
	s.greedy = true
	require.Equal(t, persist.PurchaseFrozen, h.pay(t, "order-1", persist.PaymentOverdue, "late-3").State)
	require.Equal(t, [][]any{{"50.000", "frozen"}}, h.query(t, `SELECT frozen::text, state FROM finance.purchases`))
	require.Equal(t, booked(50, 0, 0), h.takeBack(t, "ada", "order-1", "chargeback", "dispute-1", 0).Booked)
	require.Zero(t, s.got)
	h.conserved(t)
}

// A pack that is frozen is charged back: nothing is left to take, what was spent is owed or written off, and a payment
// after that brings nothing back.
func TestChargebackOfAFrozenPack(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]struct {
		booked *persist.Booked
		debt   meter.Credits
	}{
		"on_overdue: freeze":                      {booked(35, 15, 0), 13},
		"on_overdue: freeze, clawback: write_off": {booked(35, 0, 15), 0},
	} {
		t.Run(settings, func(t *testing.T) {
			t.Parallel()
			h := openShop(t, settings)
			h.subscriber(t, "ada", "plus")
			h.buy(t, "ada", "small", "order-1")
			h.charge(t, "ada", 10, 10)
			id := h.engine.NewReservationID("ada")
			_, err := h.engine.Reserve(t.Context(), meter.Reserve{ID: id, Account: "ada", Amount: 5 * meter.Credit, Lease: time.Minute})
			require.NoError(t, err)
			require.Equal(t, persist.PurchaseFrozen, h.pay(t, "order-1", persist.PaymentOverdue, "late-1").State)
			back := h.takeBack(t, "ada", "order-1", "chargeback", "dispute-1", 0)
			require.Equal(t, want.booked, back.Booked)
			_, err = h.engine.Commit(t.Context(), meter.Settle{ID: id, Account: "ada", Amount: 3 * meter.Credit, Units: 3})
			require.NoError(t, err)
			available := h.available(t, "ada")
			for _, status := range []string{persist.PaymentPaid, persist.PaymentOverdue} {
				require.Equal(t, persist.PurchaseRevoked, h.pay(t, "order-1", status, status).State)
				require.Equal(t, available, h.available(t, "ada"))
			}
			h.conserved(t)
			require.Equal(t, [][]any{{int64(want.debt * meter.Credit)}}, h.query(t, `SELECT sum(debt)::bigint FROM creditgate.grant_state`))
		})
	}
}

// Redis is away from the overdue report to the payment: both are recorded, and reach it in their order.
func TestFrozenAndPaidWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	h := openShop(t, "on_overdue: freeze")
	h.subscriber(t, "ada", "plus")
	h.buy(t, "ada", "small", "order-1")
	h.charge(t, "ada", 20, 20)
	h.requireNoDrift(t)
	require.NoError(t, h.redis.Kill())
	require.False(t, h.pay(t, "order-1", persist.PaymentOverdue, "late-1").Applied)
	require.False(t, h.pay(t, "order-1", persist.PaymentPaid, "pay-1").Applied)
	s := h.overdueAt(t, "late-2", time.Now().Add(time.Second))
	require.False(t, s.Applied)
	require.Equal(t, persist.PurchaseFrozen, s.State)
	require.NoError(t, h.redis.Restart(t.Context()))

	sweeper := h.sweeper()
	require.Eventually(t, func() bool {
		_ = sweeper.Sweep(t.Context()) // fails until Redis is open again
		s, err := h.admin.PurchaseState(t.Context(), "order-1")
		return err == nil && s.Applied
	}, 30*time.Second, 50*time.Millisecond)
	require.Zero(t, h.available(t, "ada"))
	h.conserved(t)
	require.True(t, h.pay(t, "order-1", persist.PaymentPaid, "pay-2").Applied)
	require.Equal(t, 30*meter.Credit, h.available(t, "ada"))
	h.conserved(t)
}
