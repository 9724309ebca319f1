package gateway

import (
	"errors"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

type purchaseBody struct {
	Pack        string     `json:"pack"`
	Quantity    *int       `json:"quantity"`
	ExternalRef string     `json:"external_ref"`
	PurchasedAt *time.Time `json:"purchased_at"`
	InvoiceRef  string     `json:"invoice_ref"`
	NetMinor    *int64     `json:"net_minor"`
	TaxMinor    int64      `json:"tax_minor"`
	Currency    string     `json:"currency"`
	PaidAt      *time.Time `json:"paid_at"`
}

type purchaseView struct {
	PurchaseRef string        `json:"purchase_ref"`
	Account     string        `json:"account"`
	Pack        string        `json:"pack"`
	Quantity    int           `json:"quantity"`
	Credits     meter.Credits `json:"credits"`
	Bucket      string        `json:"bucket"`
	State       string        `json:"state"`
	GrantID     *meter.ID     `json:"grant_id"`
	ExpiresAt   *string       `json:"expires_at"`
	NetMinor    int64         `json:"net_minor"`
	TaxMinor    int64         `json:"tax_minor"`
	Currency    string        `json:"currency"`
	InvoiceRef  *string       `json:"invoice_ref"`
	PurchasedAt string        `json:"purchased_at"`
	PaidAt      *string       `json:"paid_at"`
	Applied     bool          `json:"applied"`
}

func newPurchaseView(s PurchaseState) purchaseView {
	v := purchaseView{
		PurchaseRef: s.Ref, Account: s.Account, Pack: s.Pack, Quantity: s.Quantity, Credits: s.Credits, Bucket: s.Bucket,
		State: s.State, ExpiresAt: timeOrNull(s.ExpiresAt), NetMinor: s.NetMinor, TaxMinor: s.TaxMinor, Currency: s.Currency,
		PurchasedAt: timeText(s.PurchasedAt), PaidAt: timeOrNull(s.PaidAt), Applied: s.Applied,
	}
	if s.GrantID != (meter.ID{}) {
		v.GrantID = &s.GrantID
	}
	if s.InvoiceRef != "" {
		v.InvoiceRef = &s.InvoiceRef
	}
	return v
}

func timeOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return optional(timeText(t))
}

// postPurchase records what was bought. A 2xx is durable: it is granted once, whatever dies after it.
func (g *Gateway) postPurchase(c *call) (int, any, *problem) {
	var b purchaseBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, true)
	if p == nil {
		p = b.check()
	}
	if p != nil {
		return 0, nil, p
	}
	n := NewPurchase{
		Account: c.names[0], Pack: b.Pack, Ref: ref, PurchasedAt: orZero(b.PurchasedAt), PaidAt: orZero(b.PaidAt),
		InvoiceRef: b.InvoiceRef, NetMinor: b.NetMinor, TaxMinor: b.TaxMinor, Currency: b.Currency, Actor: c.actor,
	}
	if b.Quantity != nil {
		n.Quantity = *b.Quantity
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.purchases.Purchase(ctx, n)
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	return changed(s.Applied, s.Repeated), newPurchaseView(s), nil
}

// check refuses what is wrong whatever the policy says; the rest is refused by whoever knows the policy.
func (b *purchaseBody) check() *problem {
	switch {
	case b.Quantity != nil && *b.Quantity < 1:
		return &problem{code: codeInvalid, param: "quantity", detail: "quantity must be a whole number from 1; leave it out for 1"}
	case !plainText(b.InvoiceRef):
		return &problem{code: codeInvalid, param: "invoice_ref", detail: "invoice_ref must be printable ASCII characters"}
	}
	return nil
}

func (g *Gateway) getPurchase(c *call) (int, any, *problem) {
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.purchases.PurchaseState(ctx, c.names[0])
	if err != nil {
		return 0, nil, g.readProblem(err)
	}
	return fasthttp.StatusOK, newPurchaseView(s), nil
}

type paymentBody struct {
	Status      string     `json:"status"`
	ExternalRef string     `json:"external_ref"`
	At          *time.Time `json:"at"`
}

// postPayment records that a purchase was paid, or was not in time.
func (g *Gateway) postPayment(c *call) (int, any, *problem) {
	var b paymentBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, true)
	if p != nil {
		return 0, nil, p
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.purchases.Payment(ctx, NewPayment{
		PurchaseRef: c.names[0], Status: b.Status, Ref: ref, At: orZero(b.At), Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	// A purchase that still waits for its payment has nothing that Redis could be told.
	return changed(s.Applied || s.GrantID == (meter.ID{}), s.Repeated), newPurchaseView(s), nil
}

type reversalBody struct {
	ExternalRef string `json:"external_ref"`
	Reason      string `json:"reason"`
}

// reversalView says what was given back, what of the debt is gone and what lapsed because its grant was over; null until
// the ledger has it.
type reversalView struct {
	ReversalID    meter.ID       `json:"reversal_id"`
	GrantID       meter.ID       `json:"grant_id"`
	RevocationRef string         `json:"revocation_ref"`
	ExternalRef   string         `json:"external_ref"`
	Credits       *meter.Credits `json:"credits"`
	DebtSettled   *meter.Credits `json:"debt_settled"`
	Lapsed        *meter.Credits `json:"lapsed"`
	ExpiresAt     *string        `json:"expires_at"`
	Applied       bool           `json:"applied"`
}

// postReversal undoes a revocation, as when a dispute is won.
func (g *Gateway) postReversal(c *call) (int, any, *problem) {
	var b reversalBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, true)
	if p == nil {
		p = checkReason(b.Reason)
	}
	if p != nil {
		return 0, nil, p
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.purchases.Reverse(ctx, NewReversal{
		Account: c.names[0], RevocationRef: c.names[1], Ref: ref, Reason: b.Reason, Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	v := reversalView{
		ReversalID: s.ReversalID, GrantID: s.GrantID, RevocationRef: s.RevocationRef, ExternalRef: s.Ref,
		ExpiresAt: timeOrNull(s.ExpiresAt), Applied: s.Applied,
	}
	if s.Undone != nil {
		v.Credits, v.DebtSettled, v.Lapsed = &s.Undone.GivenBack, &s.Undone.Settled, &s.Undone.Lapsed
	}
	return changed(s.Applied, s.Repeated), v, nil
}

// refusal is the problem of what the policy, or what is recorded, forbids.
func refusal(r *RefusalError) *problem {
	p := &problem{code: codeChangeRefused, detail: r.Detail, param: r.Param}
	for is, code := range map[error]code{
		ErrUnknown: codeNotFound, ErrConflict: codeConflict, ErrInvalid: codeInvalid, ErrNotEligible: codeNotEligible,
		ErrSubscriptionRequired: codeSubscriptionRequired, ErrNotRefundable: codeNotRefundable,
		ErrGrantUsedUp: codeGrantUsedUp, ErrExceedsGrant: codeExceedsGrant,
	} {
		if errors.Is(r.Is, is) {
			p.code = code
		}
	}
	return p
}
