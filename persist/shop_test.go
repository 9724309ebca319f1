package persist_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// shopPolicy sells what the tests buy. Settings of purchases are put in for %s.
const shopPolicy = `
name: studio
timezone: Europe/Berlin
buckets: [promo, monthly, purchased]
cycle: {anchor: {day_of_month: 1}}
plans:
  plus:  {monthly: {credits: slots * 10}, packs: [small, large]}
  basic: {packs: [cycle, bulk]}
packs:
  small: {bucket: purchased, credits: 50, price: 45.00 EUR, expires: {after: 1y}, needs_subscription: true, refundable: true}
  large: {bucket: purchased, credits: 200, price: 160.00 EUR, expires: {after: 1y}, refundable: false}
  bulk:  {bucket: purchased, credits: 1000, price: 700.00 EUR, expires: never, refundable: true}
  cycle: {bucket: purchased, credits: 20, price: 19.00 EUR, expires: next_renewal, needs_subscription: true, refundable: true}
purchases: {%s}
operations:
  apply: {match: POST /apply, credits: 1}
`

// foundryPolicy has no plans: everybody may buy.
const foundryPolicy = `
name: foundry
buckets: [purchased]
packs:
  open: {bucket: purchased, credits: 0.5, price: 1.00 EUR, expires: {at: 2100-01-01}, refundable: true}
operations:
  apply: {match: POST /apply, credits: 1}
`

func studio(tb testing.TB, settings string) *policy.Catalog {
	tb.Helper()
	p, err := policy.Parse("studio.yaml", fmt.Appendf(nil, shopPolicy, settings))
	require.NoError(tb, err)
	open, err := policy.Parse("foundry.yaml", []byte(foundryPolicy))
	require.NoError(tb, err)
	return policy.NewCatalog(map[string]*policy.Policy{"studio": p, "foundry": open})
}

// shop is a house that sells, by a policy with these settings of purchases.
func openShop(t *testing.T, settings string) *house {
	t.Helper()
	h := openHouse(t, studio(t, settings))
	h.startFlusher(t)
	return h
}

// sell puts another policy in force.
func (h *house) sell(t *testing.T, settings string) {
	t.Helper()
	h.policies = studio(t, settings)
	h.administer(t, h.engine)
}

// subscriber makes an account with a subscription to plan since a month ago; "" is none.
func (h *house) subscriber(t *testing.T, name, plan string) {
	t.Helper()
	product := "studio"
	if plan == "none sold" {
		product, plan = "foundry", ""
	}
	_, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: name, Product: &product})
	require.NoError(t, err)
	if plan != "" {
		since := time.Now().Add(-30 * 24 * time.Hour)
		h.query(t, `INSERT INTO creditgate.subscription_term (account, n, at, plan, slots, anchor, fingerprint)
			VALUES ($1, 1, $2, $3, 1, $2, decode(repeat('00', 32), 'hex'))`, name, since, plan)
	}
}

func (h *house) buy(t *testing.T, account, pack, ref string) persist.PurchaseState {
	t.Helper()
	s, err := h.admin.Purchase(t.Context(), persist.NewPurchase{Account: account, Pack: pack, Ref: ref, InvoiceRef: "inv-" + ref})
	require.NoError(t, err)
	return s
}

func (h *house) available(t *testing.T, account string) meter.Credits {
	t.Helper()
	d, err := h.engine.Balance(t.Context(), account)
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	return d.Account.Available(d.NowMs)
}

func (h *house) pay(t *testing.T, purchase, status, ref string) persist.PurchaseState {
	t.Helper()
	s, err := h.admin.Payment(t.Context(), persist.NewPayment{PurchaseRef: purchase, Status: status, Ref: ref, Actor: "tests"})
	require.NoError(t, err)
	return s
}

func (h *house) overdueAt(t *testing.T, ref string, at time.Time) persist.PurchaseState {
	t.Helper()
	s, err := h.admin.Payment(t.Context(), persist.NewPayment{
		PurchaseRef: "order-1", Status: persist.PaymentOverdue, Ref: ref, At: at,
	})
	require.NoError(t, err)
	return s
}

func (h *house) takeBack(t *testing.T, account, purchase, reason, ref string, credits meter.Credits) persist.RevocationState {
	t.Helper()
	r, err := h.admin.Revoke(t.Context(), persist.NewRevocation{
		Account: account, PurchaseRef: purchase, Credits: credits, Ref: ref, Reason: reason, Actor: "tests",
	})
	require.NoError(t, err)
	require.True(t, r.Applied)
	require.NotNil(t, r.Booked, "the flusher runs, so the answer says what was taken")
	return r
}

func (h *house) reverse(t *testing.T, account, revocation, ref string) persist.ReversalState {
	t.Helper()
	r, err := h.admin.Reverse(t.Context(), persist.NewReversal{
		Account: account, RevocationRef: revocation, Ref: ref, Reason: "dispute won", Actor: "tests",
	})
	require.NoError(t, err)
	require.True(t, r.Applied)
	require.NotNil(t, r.Undone)
	return r
}

// conserved checks every account against the sums of the ledger, and Redis against Postgres.
func (h *house) conserved(t *testing.T) {
	t.Helper()
	h.requireNoDrift(t)
	require.Empty(t, h.query(t, `SELECT grant_id FROM creditgate.grant_state WHERE granted < spent + lapsed + revoked OR debt < 0`))
	requireStatesOfLots(t, h.url)
}

// requireStatesOfLots checks that grant_state has what it repeats of grant_lot as it is there.
func requireStatesOfLots(t *testing.T, url string) {
	t.Helper()
	require.Empty(t, queryAs(t, persisttest.AsOwner(t, url), `SELECT g.id FROM creditgate.grant_lot g
		LEFT JOIN creditgate.grant_state s ON s.grant_id = g.id
		WHERE (g.account, g.bucket, g.unlimited, g.effective_at, g.credits)
			IS DISTINCT FROM (s.account, s.bucket, s.unlimited, s.effective_at, s.credits)`))
}

func booked(taken, debt, writtenOff meter.Credits) *persist.Booked {
	return &persist.Booked{Taken: taken * meter.Credit, Debt: debt * meter.Credit, WrittenOff: writtenOff * meter.Credit}
}

func undone(back, forgiven, lapsed meter.Credits) *persist.Undone {
	return &persist.Undone{GivenBack: back * meter.Credit, Settled: forgiven * meter.Credit, Lapsed: lapsed * meter.Credit}
}

func (h *house) refusedToTakeBack(t *testing.T, v persist.NewRevocation, is error, say string) {
	t.Helper()
	_, err := h.admin.Revoke(t.Context(), v)
	require.ErrorIs(t, err, is)
	require.ErrorContains(t, err, say)
}

// spend charges one credit at a time, and gives every third one back.
func (h *house) spend(t *testing.T, begin <-chan struct{}, account string, times int) (spent meter.Credits) {
	t.Helper()
	<-begin
	for i := range times {
		id := h.engine.NewReservationID(account)
		d, err := h.engine.Reserve(t.Context(), meter.Reserve{ID: id, Account: account, Amount: meter.Credit, Lease: time.Minute})
		if err != nil {
			t.Error(err)
			return spent
		}
		if d.Code != meter.CodeOK {
			continue
		}
		if i%3 == 2 {
			_, err = h.engine.Release(t.Context(), meter.Settle{ID: id, Account: account})
		} else if _, err = h.engine.Commit(t.Context(), meter.Settle{ID: id, Account: account, Amount: meter.Credit, Units: 1}); err == nil {
			spent += meter.Credit
		}
		if err != nil {
			t.Error(err)
		}
	}
	return spent
}
