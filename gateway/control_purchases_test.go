package gateway_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
)

// till is what the house's shop answers with, and what it was asked.
type till struct {
	state    gateway.PurchaseState
	reversal gateway.ReversalState
	err      error
	bought   gateway.NewPurchase
	paid     gateway.NewPayment
	reversed gateway.NewReversal
}

func (h *house) Purchase(_ context.Context, n gateway.NewPurchase) (gateway.PurchaseState, error) {
	h.till.bought = n
	return h.till.state, h.till.err
}

func (h *house) PurchaseState(_ context.Context, ref string) (gateway.PurchaseState, error) {
	if ref != h.till.state.Ref {
		return gateway.PurchaseState{}, gateway.ErrUnknown
	}
	return h.till.state, h.till.err
}

func (h *house) Payment(_ context.Context, n gateway.NewPayment) (gateway.PurchaseState, error) {
	h.till.paid = n
	return h.till.state, h.till.err
}

func (h *house) Reverse(_ context.Context, r gateway.NewReversal) (gateway.ReversalState, error) {
	h.till.reversed = r
	return h.till.reversal, h.till.err
}

func TestPurchaseRoutes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	at := time.Date(2026, 3, 17, 10, 0, 0, 0, time.UTC)
	grant := meter.NewID(at)
	b.house.till.state = gateway.PurchaseState{
		Ref: "order-1", Account: "acme", Pack: "plus-50", Quantity: 2, Credits: 100 * meter.Credit, Bucket: "purchased",
		State: "granted", GrantID: grant, ExpiresAt: at.AddDate(1, 0, 0), NetMinor: 9000, TaxMinor: 1710, Currency: "EUR",
		InvoiceRef: "2026-17", PurchasedAt: at, Applied: true,
	}
	body := `{"pack":"plus-50","quantity":2,"external_ref":"order-1","purchased_at":"2026-03-17T10:00:00Z",
		"invoice_ref":"2026-17","net_minor":9000,"tax_minor":1710,"currency":"EUR"}`
	r := b.control("POST", "/v1/accounts/acme/purchases", body, "X-Actor", "shop")
	require.Equal(t, 201, r.StatusCode)
	want := `{"purchase_ref":"order-1","account":"acme","pack":"plus-50","quantity":2,"credits":100,"bucket":"purchased",
		"state":"granted","grant_id":"` + grant.String() + `","expires_at":"2027-03-17T10:00:00.000Z","net_minor":9000,
		"tax_minor":1710,"currency":"EUR","invoice_ref":"2026-17","purchased_at":"2026-03-17T10:00:00.000Z","paid_at":null,
		"applied":true}`
	require.JSONEq(t, want, string(r.body))
	net := int64(9000)
	require.Equal(t, gateway.NewPurchase{
		Account: "acme", Pack: "plus-50", Quantity: 2, Ref: "order-1", PurchasedAt: at, InvoiceRef: "2026-17", NetMinor: &net,
		TaxMinor: 1710, Currency: "EUR", Actor: "shop",
	}, b.house.till.bought)
	r = b.control("GET", "/v1/purchases/order-1", "")
	require.Equal(t, 200, r.StatusCode)
	require.JSONEq(t, want, string(r.body))
	require.Equal(t, 404, b.control("GET", "/v1/purchases/order-2", "").StatusCode)

	b.house.till.state.Repeated = true
	require.Equal(t, 200, b.control("POST", "/v1/accounts/acme/purchases", body).StatusCode)
	require.Equal(t, 200, b.control("POST", "/v1/purchases/order-1/payment",
		`{"status":"paid","external_ref":"pay-1","at":"2026-03-18T10:00:00Z"}`).StatusCode)
	require.Equal(t, gateway.NewPayment{
		PurchaseRef: "order-1", Status: "paid", Ref: "pay-1", At: at.AddDate(0, 0, 1), Actor: "admin",
	}, b.house.till.paid)

	b.house.till.state = gateway.PurchaseState{Ref: "order-1", State: "awaiting_payment", PurchasedAt: at}
	r = b.control("POST", "/v1/accounts/acme/purchases", `{"pack":"plus-50"}`, "Idempotency-Key", "order-1")
	require.Equal(t, 202, r.StatusCode)
	require.Nil(t, r.json(t)["grant_id"])
	require.Equal(t, "order-1", b.house.till.bought.Ref)
	require.Equal(t, 201, b.control("POST", "/v1/purchases/order-1/payment", `{"status":"overdue","external_ref":"late-1"}`).StatusCode)
}

func TestReversalRoute(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := meter.NewID(time.Now())
	b.house.till.reversal = gateway.ReversalState{ReversalID: id, GrantID: id, RevocationRef: "dispute-1", Ref: "won-1"}
	url := "/v1/accounts/acme/revocations/dispute-1/reversal"
	r := b.control("POST", url, `{"external_ref":"won-1","reason":"dispute won"}`)
	require.Equal(t, 202, r.StatusCode)
	require.JSONEq(t, `{"reversal_id":"`+id.String()+`","grant_id":"`+id.String()+`","revocation_ref":"dispute-1",
		"external_ref":"won-1","credits":null,"debt_settled":null,"lapsed":null,"expires_at":null,"applied":false}`, string(r.body))
	require.Equal(t, gateway.NewReversal{
		Account: "acme", RevocationRef: "dispute-1", Ref: "won-1", Reason: "dispute won", Actor: "admin",
	}, b.house.till.reversed)
	b.house.till.reversal.Applied = true
	b.house.till.reversal.Undone = &gateway.Undone{GivenBack: 1500, Settled: 500}
	r = b.control("POST", url, `{"external_ref":"won-1"}`)
	require.Equal(t, 201, r.StatusCode)
	require.InDelta(t, 1.5, r.json(t)["credits"], 0)
	require.InDelta(t, 0.5, r.json(t)["debt_settled"], 0)
}

func TestBadPurchases(t *testing.T) {
	t.Parallel()
	b := setup(t)
	buy, pay := "/v1/accounts/acme/purchases", "/v1/purchases/order-1/payment"
	for name, c := range map[string]struct{ url, body, param string }{
		"no reference":       {buy, `{"pack":"p"}`, "external_ref"},
		"bad reference":      {buy, `{"pack":"p","external_ref":"a b"}`, "external_ref"},
		"unknown field":      {buy, `{"pack":"p","external_ref":"x","price":3}`, ""},
		"none":               {buy, `{"pack":"p","external_ref":"x","quantity":0}`, "quantity"},
		"half a pack":        {buy, `{"pack":"p","external_ref":"x","quantity":0.5}`, "quantity"},
		"money with a point": {buy, `{"pack":"p","external_ref":"x","net_minor":45.5}`, "net_minor"},
		"money as text":      {buy, `{"pack":"p","external_ref":"x","net_minor":"45"}`, "net_minor"},
		"no time":            {buy, `{"pack":"p","external_ref":"x","purchased_at":"yesterday"}`, ""},
		"year 1":             {buy, `{"pack":"p","external_ref":"x","paid_at":"0001-01-01T00:00:00Z"}`, "paid_at"},
		"invoice number":     {buy, `{"pack":"p","external_ref":"x","invoice_ref":"\u0007"}`, "invoice_ref"},
		"not an object":      {buy, `[]`, ""},
		"two objects":        {buy, `{"pack":"p","external_ref":"x"}{}`, ""},
		"payment of nothing": {pay, `{"status":"paid"}`, "external_ref"},
		"payment field":      {pay, `{"status":"paid","external_ref":"x","amount":3}`, ""},
		"long reason": {
			"/v1/accounts/acme/revocations/r/reversal", `{"external_ref":"x","reason":"` +
				"123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890!" + `"}`,
			"reason",
		},
	} {
		r := b.control("POST", c.url, c.body)
		require.Equal(t, 400, r.StatusCode, "%s: %s", name, r.body)
		problem := r.json(t)
		require.Equal(t, "invalid-request", problem["code"], name)
		if c.param != "" {
			require.Equal(t, c.param, problem["error"].(map[string]any)["param"], name)
		}
	}
	require.Zero(t, b.house.till.bought)
	require.Zero(t, b.house.till.paid)
}

func TestRefusedPurchases(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for code, c := range map[string]struct {
		is     error
		status int
	}{
		"invalid-request":       {gateway.ErrInvalid, 400},
		"pack-not-eligible":     {gateway.ErrNotEligible, 403},
		"subscription-required": {gateway.ErrSubscriptionRequired, 403},
		"not-refundable":        {gateway.ErrNotRefundable, 409},
		"conflict":              {gateway.ErrConflict, 409},
		"change-refused":        {gateway.ErrRefused, 409},
		"grant-used-up":         {gateway.ErrGrantUsedUp, 409},
		"exceeds-grant":         {gateway.ErrExceedsGrant, 409},
	} {
		b.house.till.err = &gateway.RefusalError{Is: c.is, Param: "pack", Detail: "this account may buy none"}
		r := b.control("POST", "/v1/accounts/acme/purchases", `{"pack":"p","external_ref":"x"}`)
		require.Equal(t, c.status, r.StatusCode, code)
		require.Equal(t, code, r.json(t)["code"])
		require.Equal(t, "this account may buy none", r.json(t)["detail"])
		require.Equal(t, "false", r.Header.Get("X-Should-Retry"))
	}
	for status, err := range map[int]error{404: meter.ErrNoAccount, 409: gateway.ErrTooManyGrants, 503: errors.New("no database")} {
		b.house.till.err = err
		require.Equal(t, status, b.control("POST", "/v1/accounts/acme/purchases", `{"pack":"p","external_ref":"x"}`).StatusCode)
	}
}
