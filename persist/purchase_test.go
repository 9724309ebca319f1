package persist_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

func TestPurchase(t *testing.T) {
	t.Parallel()
	h := openShop(t, "discounts: none")
	h.subscriber(t, "ada", "plus")
	s := h.buy(t, "ada", "small", "order-1")
	require.Equal(t, persist.PurchaseGranted, s.State)
	require.True(t, s.Applied)
	require.False(t, s.Repeated)
	require.Equal(t, []any{50 * meter.Credit, int64(4500), "EUR", "inv-order-1", "purchased"},
		[]any{s.Credits, s.NetMinor, s.Currency, s.InvoiceRef, s.Bucket})
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	day := s.PurchasedAt.In(berlin)
	require.Equal(t, time.Date(day.Year()+1, day.Month(), day.Day()+1, 0, 0, 0, 0, berlin).UTC(), s.ExpiresAt,
		"a calendar year, to the end of that local day")
	require.Equal(t, 50*meter.Credit, h.available(t, "ada"))

	again := h.buy(t, "ada", "small", "order-1")
	require.True(t, again.Repeated)
	again.Repeated = false
	require.Equal(t, s, again)
	read, err := h.admin.PurchaseState(t.Context(), "order-1")
	require.NoError(t, err)
	require.Equal(t, s, read)
	_, err = h.admin.PurchaseState(t.Context(), "order-2")
	require.ErrorIs(t, err, persist.ErrNoPurchase)

	net, bob := int64(20000), "bob"
	h.subscriber(t, bob, "plus")
	for name, other := range map[string]persist.NewPurchase{
		"pack":         {Account: "ada", Pack: "large", Ref: "order-1", InvoiceRef: "inv-order-1"},
		"quantity":     {Account: "ada", Pack: "small", Ref: "order-1", InvoiceRef: "inv-order-1", Quantity: 2},
		"account":      {Account: bob, Pack: "small", Ref: "order-1", InvoiceRef: "inv-order-1"},
		"invoice":      {Account: "ada", Pack: "small", Ref: "order-1"},
		"net":          {Account: "ada", Pack: "small", Ref: "order-1", InvoiceRef: "inv-order-1", NetMinor: &net},
		"tax":          {Account: "ada", Pack: "small", Ref: "order-1", InvoiceRef: "inv-order-1", TaxMinor: 1},
		"purchased at": {Account: "ada", Pack: "small", Ref: "order-1", InvoiceRef: "inv-order-1", PurchasedAt: s.PurchasedAt},
	} {
		_, err := h.admin.Purchase(t.Context(), other)
		require.ErrorIs(t, err, persist.ErrRefConflict, name)
	}
	s, err = h.admin.Purchase(t.Context(), persist.NewPurchase{
		Account: "ada", Pack: "small", Quantity: 3, Ref: "order-3", NetMinor: &net, TaxMinor: 3800, Currency: "EUR",
	})
	require.NoError(t, err)
	require.Equal(t, []any{150 * meter.Credit, net, int64(3800)}, []any{s.Credits, s.NetMinor, s.TaxMinor})
	require.Equal(t, 200*meter.Credit, h.available(t, "ada"))
	h.conserved(t)
}

// Who may buy what, and at which price.
func TestPurchaseEligibility(t *testing.T) {
	t.Parallel()
	h := openShop(t, "discounts: none")
	for name, plan := range map[string]string{"ada": "plus", "bob": "basic", "eve": "", "fay": "none sold"} {
		h.subscriber(t, name, plan)
	}
	less, much := int64(4499), int64(9000)
	soon, long := time.Now().Add(time.Hour), time.Now().Add(-400*24*time.Hour)
	for name, c := range map[string]struct {
		buy persist.NewPurchase
		is  error
		say string
	}{
		"own pack":              {persist.NewPurchase{Account: "ada", Pack: "large"}, nil, ""},
		"for everybody":         {persist.NewPurchase{Account: "fay", Pack: "open"}, nil, ""},
		"dearer than listed":    {persist.NewPurchase{Account: "ada", Pack: "small", NetMinor: &much}, nil, ""},
		"many":                  {persist.NewPurchase{Account: "ada", Pack: "small", Quantity: 1000}, nil, ""},
		"to the next renewal":   {persist.NewPurchase{Account: "bob", Pack: "cycle"}, nil, ""},
		"no such pack":          {persist.NewPurchase{Account: "ada", Pack: "huge"}, persist.ErrInvalid, "may buy small, large"},
		"another plan's":        {persist.NewPurchase{Account: "bob", Pack: "small"}, persist.ErrNotEligible, "may buy cycle, bulk"},
		"without subscription":  {persist.NewPurchase{Account: "eve", Pack: "small"}, persist.ErrSubscriptionRequired, "may buy none"},
		"plans' packs":          {persist.NewPurchase{Account: "eve", Pack: "bulk"}, persist.ErrSubscriptionRequired, "may buy none"},
		"before it began":       {persist.NewPurchase{Account: "ada", Pack: "large", PurchasedAt: long}, persist.ErrSubscriptionRequired, "may buy none"},
		"in the future":         {persist.NewPurchase{Account: "ada", Pack: "small", PurchasedAt: soon}, persist.ErrInvalid, "future"},
		"paid in the future":    {persist.NewPurchase{Account: "ada", Pack: "small", PaidAt: soon}, persist.ErrInvalid, "future"},
		"a discount":            {persist.NewPurchase{Account: "ada", Pack: "small", NetMinor: &less}, persist.ErrInvalid, "below the list price 4500"},
		"a discount on many":    {persist.NewPurchase{Account: "ada", Pack: "small", Quantity: 3, NetMinor: &much}, persist.ErrInvalid, "13500"},
		"another currency":      {persist.NewPurchase{Account: "ada", Pack: "small", Currency: "USD"}, persist.ErrInvalid, "sold in EUR"},
		"none":                  {persist.NewPurchase{Account: "ada", Pack: "small", Quantity: -1}, persist.ErrInvalid, "between 1 and 1000"},
		"too many":              {persist.NewPurchase{Account: "ada", Pack: "small", Quantity: 1001}, persist.ErrInvalid, "between 1 and 1000"},
		"negative tax":          {persist.NewPurchase{Account: "ada", Pack: "small", TaxMinor: -1}, persist.ErrInvalid, "tax_minor"},
		"an account of nobody":  {persist.NewPurchase{Account: "nobody", Pack: "small"}, meter.ErrNoAccount, ""},
		"a bad reference":       {persist.NewPurchase{Account: "ada", Pack: "small", Ref: "a b"}, persist.ErrInvalid, "external_ref"},
		"a long invoice number": {persist.NewPurchase{Account: "ada", Pack: "small", InvoiceRef: fmt.Sprintf("%121d", 1)}, persist.ErrInvalid, "120"},
	} {
		if c.buy.Ref == "" {
			c.buy.Ref = fmt.Sprintf("%x", name)
		}
		_, err := h.admin.Purchase(t.Context(), c.buy)
		if c.is == nil {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, c.is, name)
		require.ErrorContains(t, err, c.say, name)
	}
	require.Equal(t, [][]any{{int64(5), int64(5)}}, h.query(t,
		`SELECT count(*), count(DISTINCT grant_id) FROM creditgate.purchase`), "what was refused left nothing")
	h.sell(t, "discounts: allowed")
	_, err := h.admin.Purchase(t.Context(), persist.NewPurchase{Account: "ada", Pack: "small", NetMinor: &less, Ref: "cheap"})
	require.NoError(t, err)
	h.conserved(t)
}

func TestPurchaseWhileCreditIsLeft(t *testing.T) {
	t.Parallel()
	h := openShop(t, "while_credit_left: refuse")
	h.subscriber(t, "ada", "plus")
	h.buy(t, "ada", "small", "order-1")
	second := persist.NewPurchase{Account: "ada", Pack: "small", Ref: "order-2"}
	_, err := h.admin.Purchase(t.Context(), second)
	require.ErrorIs(t, err, persist.ErrRefused)
	require.ErrorContains(t, err, "50 credits left")
	h.charge(t, "ada", 50, 50)
	h.requireNoDrift(t) // the ledger is in Postgres
	_, err = h.admin.Purchase(t.Context(), second)
	require.NoError(t, err)
}

func TestPurchaseIsGrantedWhenPaid(t *testing.T) {
	t.Parallel()
	h := openShop(t, "grant_on: payment")
	h.subscriber(t, "ada", "plus")
	h.subscriber(t, "bob", "basic")
	s := h.buy(t, "ada", "small", "order-1")
	require.Equal(t, persist.PurchaseAwaiting, s.State)
	require.False(t, s.Applied)
	require.Zero(t, s.GrantID)
	require.Zero(t, h.available(t, "ada"))
	_, err := h.admin.Revoke(t.Context(), persist.NewRevocation{Account: "ada", PurchaseRef: "order-1", Ref: "r", Reason: "refund"})
	require.ErrorIs(t, err, persist.ErrRefused)
	require.Equal(t, persist.PurchaseAwaiting, h.pay(t, "order-1", persist.PaymentOverdue, "late-1").State)

	s = h.pay(t, "order-1", persist.PaymentPaid, "pay-1")
	require.Equal(t, persist.PurchaseGranted, s.State)
	require.True(t, s.Applied)
	require.NotZero(t, s.PaidAt)
	require.Equal(t, 50*meter.Credit, h.available(t, "ada"))
	require.True(t, h.pay(t, "order-1", persist.PaymentPaid, "pay-1").Repeated)
	h.pay(t, "order-1", persist.PaymentPaid, "pay-1-again")
	require.Equal(t, 50*meter.Credit, h.available(t, "ada"), "paid twice is granted once")
	_, err = h.admin.Payment(t.Context(), persist.NewPayment{PurchaseRef: "order-1", Status: persist.PaymentOverdue, Ref: "pay-1"})
	require.ErrorIs(t, err, persist.ErrRefConflict)
	_, err = h.admin.Payment(t.Context(), persist.NewPayment{PurchaseRef: "order-9", Status: persist.PaymentPaid, Ref: "pay-9"})
	require.ErrorIs(t, err, persist.ErrNoPurchase)
	_, err = h.admin.Payment(t.Context(), persist.NewPayment{PurchaseRef: "order-1", Status: "late", Ref: "pay-9"})
	require.ErrorIs(t, err, persist.ErrInvalid)

	require.Zero(t, h.buy(t, "bob", "cycle", "order-2").ExpiresAt, "known when it is granted")
	s = h.pay(t, "order-2", persist.PaymentPaid, "pay-2")
	require.NotZero(t, s.ExpiresAt)
	s, err = h.admin.Purchase(t.Context(), persist.NewPurchase{Account: "ada", Pack: "small", Ref: "order-3", PaidAt: time.Now()})
	require.NoError(t, err)
	require.Equal(t, persist.PurchaseGranted, s.State, "paid when it was bought")
	h.conserved(t)
}

func TestOverduePurchase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		settings, state  string
		available, spent meter.Credits // while it is overdue, and after a held request of 5 was committed with 3
	}{
		{"on_overdue: keep", persist.PurchaseGranted, 35, 37},
		{"on_overdue: freeze", persist.PurchaseFrozen, 0, 0},
		{"on_overdue: revoke", persist.PurchaseRevoked, 0, 0},
		{"on_overdue: revoke, clawback: write_off", persist.PurchaseRevoked, 0, 2},
	} {
		t.Run(c.settings, func(t *testing.T) {
			t.Parallel()
			h := openShop(t, c.settings)
			h.subscriber(t, "ada", "plus")
			expires := h.buy(t, "ada", "small", "order-1").ExpiresAt
			h.charge(t, "ada", 10, 10)
			id := h.engine.NewReservationID("ada")
			_, err := h.engine.Reserve(t.Context(), meter.Reserve{ID: id, Account: "ada", Amount: 5 * meter.Credit, Lease: time.Minute})
			require.NoError(t, err)
			s := h.pay(t, "order-1", persist.PaymentOverdue, "late-1")
			require.Equal(t, c.state, s.State)
			require.True(t, s.Applied)
			require.Equal(t, c.available*meter.Credit, h.available(t, "ada"))
			_, err = h.engine.Commit(t.Context(), meter.Settle{ID: id, Account: "ada", Amount: 3 * meter.Credit, Units: 3})
			require.NoError(t, err)
			require.Equal(t, c.spent*meter.Credit, h.available(t, "ada"), "what comes back is not spent either")
			h.conserved(t)

			s = h.pay(t, "order-1", persist.PaymentPaid, "pay-1")
			require.Equal(t, persist.PurchaseGranted, s.State)
			require.True(t, s.Applied)
			require.Equal(t, expires, s.ExpiresAt)
			require.Equal(t, 37*meter.Credit, h.available(t, "ada"), "50 less 13 spent")
			h.conserved(t)
			require.Equal(t, [][]any{{int64(0)}}, h.query(t, `SELECT sum(debt)::bigint FROM creditgate.grant_state`))
			require.Equal(t, persist.PurchaseGranted, h.overdueAt(t, "late-0", s.PaidAt.Add(-time.Hour)).State, "paid since")
			require.Equal(t, persist.PurchaseGranted, h.pay(t, "order-1", persist.PaymentOverdue, "late-2").State, "of unknown age")
			require.Equal(t, 37*meter.Credit, h.available(t, "ada"))
			h.conserved(t)
		})
	}
}

// A thousand times the same order is one order.
func TestSamePurchaseFromManyClients(t *testing.T) {
	t.Parallel()
	h := openShop(t, "")
	h.subscriber(t, "ada", "plus")
	const clients = 32
	grants := make([]meter.ID, clients)
	var fresh, work sync.WaitGroup
	fresh.Add(clients)
	first := make(chan struct{}, clients)
	for i := range clients {
		work.Go(func() {
			fresh.Done()
			fresh.Wait()
			s, err := h.admin.Purchase(context.WithoutCancel(t.Context()), persist.NewPurchase{Account: "ada", Pack: "small", Ref: "order-1"})
			if err != nil {
				t.Error(err)
				return
			}
			grants[i] = s.GrantID
			if !s.Repeated {
				first <- struct{}{}
			}
		})
	}
	work.Wait()
	require.Len(t, first, 1, "one of them made it")
	for _, g := range grants {
		require.Equal(t, grants[0], g)
	}
	require.Equal(t, 50*meter.Credit, h.available(t, "ada"))
	h.conserved(t)
	require.Equal(t, [][]any{{int64(1), int64(1)}}, h.query(t, `SELECT (SELECT count(*) FROM creditgate.purchase),
		(SELECT count(*) FROM creditgate.ledger_entry WHERE kind = 'grant')`))
}

// Redis is away: the purchase is durable, told as pending, and applied later, once.
func TestPurchaseWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.admin = persist.NewAdmin(b.store, b.world, studio(t, ""), zerolog.Nop())
	product := "foundry"
	_, err := b.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Product: &product})
	require.NoError(t, err)
	b.down = true
	s, err := b.admin.Purchase(t.Context(), persist.NewPurchase{Account: "ada", Pack: "open", Ref: "order-1"})
	require.NoError(t, err)
	require.Equal(t, persist.PurchasePending, s.State)
	require.False(t, s.Applied)
	s, err = b.admin.PurchaseState(t.Context(), "order-1")
	require.NoError(t, err)
	require.Equal(t, persist.PurchasePending, s.State)

	b.down, b.lost = false, true // it does what it is asked, but nobody hears of it
	s, err = b.admin.PurchaseState(t.Context(), "order-1")
	require.NoError(t, err)
	require.Equal(t, persist.PurchasePending, s.State)
	b.lost = false
	b.flush(t)
	b.sweep(t)
	s, err = b.admin.PurchaseState(t.Context(), "order-1")
	require.NoError(t, err)
	require.Equal(t, persist.PurchaseGranted, s.State)
	require.Equal(t, int64(1), b.query(t, `SELECT count(*) FROM creditgate.ledger_entry WHERE kind = 'grant'`)[0][0])
	b.requireNoDrift(t)
}

// What finance sees of purchases.
func TestFinancePurchases(t *testing.T) {
	t.Parallel()
	h := openShop(t, "clawback: write_off")
	h.subscriber(t, "ada", "plus")
	net := int64(9520)
	_, err := h.admin.Purchase(t.Context(), persist.NewPurchase{
		Account: "ada", Pack: "small", Quantity: 2, Ref: "order-1", NetMinor: &net, TaxMinor: 1809, InvoiceRef: "2026-17", Actor: "shop",
	})
	require.NoError(t, err)
	h.charge(t, "ada", 95, 95)
	h.takeBack(t, "ada", "order-1", "refund", "refund-1", 40*meter.Credit)
	h.requireNoDrift(t)
	columns := `purchase_ref, account_id, product, pack, quantity, bucket, state, list_minor, net_minor, tax_minor, currency,
		invoice_ref, credits::text, remaining::text, spent::text, refunded::text, charged_back::text, written_off::text,
		debt::text, actor, purchased_at IS NOT NULL, paid_at IS NULL, granted_at IS NOT NULL, expires_at > purchased_at`
	require.Equal(t, [][]any{{
		"order-1", "ada", "studio", "small", int32(2), "purchased", "granted", int64(9000), int64(9520), int64(1809), "EUR",
		"2026-17", "100.000", "0.000", "95.000", "5.000", "0.000", "35.000", "0.000", "shop", true, true, true, true,
	}}, queryAs(t, persisttest.AsFinance(t, h.url), `SELECT `+columns+` FROM finance.purchases`))
}
