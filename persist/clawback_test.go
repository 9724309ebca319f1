package persist_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// The part that is left first, the rest as debt; several times, up to the whole.
func TestClawbackInParts(t *testing.T) {
	t.Parallel()
	h := openShop(t, "")
	h.subscriber(t, "ada", "plus")
	h.buy(t, "ada", "small", "order-1")
	h.charge(t, "ada", 30, 30) // 20 are left

	require.Equal(t, booked(15, 0, 0), h.takeBack(t, "ada", "order-1", "refund", "refund-1", 15*meter.Credit).Booked)
	require.Equal(t, booked(5, 5, 0), h.takeBack(t, "ada", "order-1", "chargeback", "refund-2", 10*meter.Credit).Booked)
	again := h.takeBack(t, "ada", "order-1", "refund", "refund-1", 15*meter.Credit)
	require.True(t, again.Repeated)
	require.Equal(t, booked(15, 0, 0), again.Booked)
	whole := persist.NewRevocation{Account: "ada", PurchaseRef: "order-1", Credits: 26 * meter.Credit, Ref: "refund-3", Reason: "refund"}
	h.refusedToTakeBack(t, whole, persist.ErrExceedsGrant, "at most 25 credits of grant")
	require.Equal(t, booked(0, 25, 0), h.takeBack(t, "ada", "order-1", "error", "refund-3", 0).Booked)
	s, err := h.admin.PurchaseState(t.Context(), "order-1")
	require.NoError(t, err)
	require.Equal(t, persist.PurchaseRevoked, s.State)
	h.conserved(t)
	require.Equal(t, [][]any{{"15.000", "10.000", "25.000", "30.000", "20.000", "0.000"}}, h.query(t, `SELECT refunded::text,
		charged_back::text, corrected::text, debt::text, revoked::text, written_off::text FROM finance.purchases`))

	require.Equal(t, undone(0, 10, 0), h.reverse(t, "ada", "refund-2", "won-1").Undone,
		"5 of debt forgiven; the 5 that were taken pay what the grant owes otherwise")
	require.Zero(t, h.available(t, "ada"))
	h.conserved(t)
}

func TestClawbackOfWhatIsNotRefundable(t *testing.T) {
	t.Parallel()
	h := openShop(t, "on_overdue: freeze")
	h.subscriber(t, "ada", "plus")
	h.subscriber(t, "bob", "plus")
	h.buy(t, "ada", "large", "order-1")
	v := persist.NewRevocation{Account: "ada", PurchaseRef: "order-1", Ref: "back-1", Reason: "refund"}
	h.refusedToTakeBack(t, v, persist.ErrNotRefundable, "large")
	v.Reason = "because"
	h.refusedToTakeBack(t, v, persist.ErrInvalid, "refund, chargeback or error")
	other := v
	other.Account = "bob"
	h.refusedToTakeBack(t, other, persist.ErrNoGrant, "bob")
	h.pay(t, "order-1", persist.PaymentOverdue, "late-1")
	v.Reason, v.Credits = "chargeback", meter.Credit
	h.refusedToTakeBack(t, v, persist.ErrRefused, "frozen")
	h.pay(t, "order-1", persist.PaymentPaid, "pay-1")
	require.Equal(t, booked(200, 0, 0), h.takeBack(t, "ada", "order-1", "chargeback", "back-1", 0).Booked)
	h.conserved(t)
}

// A dispute that is won gives back what was taken, to the same grant and its expiry, and forgives the debt.
func TestDisputeWon(t *testing.T) {
	t.Parallel()
	h := openShop(t, "")
	h.subscriber(t, "ada", "plus")
	expires := h.buy(t, "ada", "small", "order-1").ExpiresAt
	h.charge(t, "ada", 10, 10)
	id := h.engine.NewReservationID("ada")
	_, err := h.engine.Reserve(t.Context(), meter.Reserve{ID: id, Account: "ada", Amount: 30 * meter.Credit, Lease: time.Minute})
	require.NoError(t, err)
	require.Equal(t, booked(10, 40, 0), h.takeBack(t, "ada", "order-1", "chargeback", "dispute-1", 0).Booked)
	_, err = h.engine.Commit(t.Context(), meter.Settle{ID: id, Account: "ada", Amount: 25 * meter.Credit, Units: 25})
	require.NoError(t, err)
	require.Zero(t, h.available(t, "ada"), "the 5 that came back paid debt, and the grant is gone")

	won := h.reverse(t, "ada", "dispute-1", "won-1")
	require.Equal(t, undone(15, 35, 0), won.Undone)
	require.Equal(t, expires, won.ExpiresAt)
	require.Equal(t, 15*meter.Credit, h.available(t, "ada"), "50 less 35 spent")
	again := h.reverse(t, "ada", "dispute-1", "won-1")
	require.True(t, again.Repeated)
	again.Repeated = false
	require.Equal(t, won, again)
	require.Equal(t, won.ReversalID, h.reverse(t, "ada", "dispute-1", "won-2").ReversalID, "won twice is won once")
	_, err = h.admin.Reverse(t.Context(), persist.NewReversal{Account: "ada", RevocationRef: "dispute-9", Ref: "won-9"})
	require.ErrorIs(t, err, persist.ErrNoRevocation)
	require.Equal(t, 15*meter.Credit, h.available(t, "ada"))
	s, err := h.admin.PurchaseState(t.Context(), "order-1")
	require.NoError(t, err)
	require.Equal(t, persist.PurchaseGranted, s.State)
	h.conserved(t)

	require.Equal(t, booked(15, 35, 0), h.takeBack(t, "ada", "order-1", "chargeback", "dispute-2", 0).Booked, "it can be lost again")
	h.conserved(t)
}

// What was taken of a grant that is over by now comes back too late.
func TestDisputeWonAfterTheExpiry(t *testing.T) {
	t.Parallel()
	h := openShop(t, "")
	grant := h.addAccount(t, "ada", 10)
	h.charge(t, "ada", 4, 4)
	v, err := h.admin.Revoke(t.Context(), persist.NewRevocation{
		Account: "ada", GrantID: grant, Credits: 5 * meter.Credit, Ref: "dispute-1", Reason: "chargeback",
	})
	require.NoError(t, err)
	require.Equal(t, booked(5, 0, 0), v.Booked)
	_, err = h.admin.MoveExpiry(t.Context(), persist.ExpiryChange{
		Account: "ada", GrantID: grant, ExpiresAt: time.Now().Add(-time.Second), Ref: "over",
	})
	require.NoError(t, err)
	won := h.reverse(t, "ada", "dispute-1", "won-1")
	require.Equal(t, undone(0, 0, 5), won.Undone, "recorded, and it says that it lapsed")
	require.NotZero(t, won.ExpiresAt)
	require.Zero(t, h.available(t, "ada"))
	h.conserved(t)
}

// The spent part of a written-off pack is nobody's debt, and what becomes free later stays the customer's.
func TestClawbackWrittenOff(t *testing.T) {
	t.Parallel()
	h := openShop(t, "clawback: write_off")
	h.subscriber(t, "ada", "plus")
	h.buy(t, "ada", "small", "order-1")
	h.charge(t, "ada", 45, 45)
	require.Equal(t, booked(5, 0, 45), h.takeBack(t, "ada", "order-1", "refund", "refund-1", 0).Booked)
	h.conserved(t)
	require.Equal(t, undone(5, 0, 0), h.reverse(t, "ada", "refund-1", "won-1").Undone)
	h.charge(t, "ada", 5, 5)
	require.Equal(t, booked(0, 0, 50), h.takeBack(t, "ada", "order-1", "refund", "refund-2", 0).Booked, "nothing is left")
	require.Equal(t, undone(0, 0, 0), h.reverse(t, "ada", "refund-2", "won-2").Undone, "there is nothing to give back")
	h.conserved(t)
	require.Equal(t, [][]any{{"void"}}, h.query(t, `SELECT status FROM creditgate.reversal WHERE external_ref = 'won-2'`))
}

// A refund races with requests that spend the same credit: every credit goes to one of them.
func TestRefundRacesWithRequests(t *testing.T) {
	t.Parallel()
	for settings, total := range map[string]meter.Credits{"clawback: debt": 50, "clawback: write_off": 50} {
		t.Run(settings, func(t *testing.T) {
			t.Parallel()
			h := openShop(t, settings)
			h.subscriber(t, "ada", "plus")
			h.buy(t, "ada", "small", "order-1")
			begin, spent := make(chan struct{}), make(chan meter.Credits, 4)
			for range cap(spent) {
				go func() { spent <- h.spend(t, begin, "ada", 20) }()
			}
			close(begin)
			r := h.takeBack(t, "ada", "order-1", "refund", "refund-1", 0)
			var sum meter.Credits
			for range cap(spent) {
				sum += <-spent
			}
			require.Equal(t, total*meter.Credit, r.Booked.Taken+r.Booked.Debt+r.Booked.WrittenOff)
			left := h.available(t, "ada")
			h.conserved(t)
			require.Equal(t, [][]any{{int64(sum), int64(left)}}, h.query(t, `SELECT sum(spent)::bigint,
				sum(granted - spent - lapsed - revoked)::bigint FROM creditgate.grant_state`))
			if settings == "clawback: debt" {
				require.Zero(t, left, "what came back paid the debt")
			}
		})
	}
}

// A purchase's grant is the purchase, by whichever name it is called.
func TestClawbackByTheGrantOfAPurchase(t *testing.T) {
	t.Parallel()
	h := openShop(t, "clawback: write_off")
	h.subscriber(t, "ada", "plus")
	open, large := h.buy(t, "ada", "small", "order-2"), h.buy(t, "ada", "large", "order-1")
	v := persist.NewRevocation{Account: "ada", GrantID: large.GrantID, Ref: "back-1", Reason: "refund"}
	h.refusedToTakeBack(t, v, persist.ErrNotRefundable, "large")
	h.charge(t, "ada", 20, 20)
	v.GrantID, v.Reason = open.GrantID, "chargeback"
	r, err := h.admin.Revoke(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, booked(30, 0, 20), r.Booked, "by the terms of the sale")
	h.conserved(t)
}

// Two gateways' clocks differ, and Redis is away: a revocation recorded by the one that is ahead still comes before
// its reversal.
func TestReversalByAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	s := newDesk(t, 1)
	s.putAccount(t, "ada")
	grant := s.addGrant(t, "ada", "pack-1", 10*meter.Credit)
	s.flush(t)
	s.down = true
	_, err := s.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", GrantID: grant, Ref: "back-1", Reason: "chargeback"})
	require.NoError(t, err)
	s.at(t, "2027-01-10 08:59")
	_, err = s.admin.Reverse(t.Context(), persist.NewReversal{Account: "ada", RevocationRef: "back-1", Ref: "won-1"})
	require.NoError(t, err)
	s.down = false
	s.at(t, "2027-01-10 09:05")
	s.startFlusher(t, persist.FlushOptions{})
	s.sweep(t)
	s.awaitFlushed(t)
	require.Empty(t, s.pending(t))
	require.Contains(t, s.given(t, "ada"), "10 promo")
	s.requireNoDrift(t)
}
