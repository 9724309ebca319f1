package gateway

import (
	"strconv"
	"strings"
	"time"

	"creditgate/meter"
)

type grantBody struct {
	Bucket      string         `json:"bucket"`
	Credits     *meter.Credits `json:"credits"`
	EffectiveAt *time.Time     `json:"effective_at"`
	ExpiresAt   *time.Time     `json:"expires_at"`
	ExternalRef string         `json:"external_ref"`
	Reason      string         `json:"reason"`
}

type grantView struct {
	GrantID     meter.ID      `json:"grant_id"`
	Applied     bool          `json:"applied"`
	Bucket      string        `json:"bucket"`
	Credits     meter.Credits `json:"credits"`
	EffectiveAt string        `json:"effective_at"`
	ExpiresAt   *string       `json:"expires_at"`
	ExternalRef string        `json:"external_ref,omitempty"`
}

func newGrantView(s GrantState) grantView {
	v := grantView{
		GrantID: s.GrantID, Applied: s.Applied, Bucket: s.Bucket, Credits: s.Credits,
		EffectiveAt: timeText(s.EffectiveAt), ExternalRef: s.Ref,
	}
	if !s.ExpiresAt.IsZero() {
		v.ExpiresAt = optional(timeText(s.ExpiresAt))
	}
	return v
}

// postGrant adds credit. It is in Postgres before it is answered, and in Redis as well unless the answer is 202.
func (g *Gateway) postGrant(c *call) (int, any, *problem) {
	var b grantBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, true)
	if p == nil {
		p = checkReason(b.Reason)
	}
	if p == nil {
		p = positive(b.Credits)
	}
	if p == nil && b.ExpiresAt != nil && b.EffectiveAt != nil && !b.ExpiresAt.After(*b.EffectiveAt) {
		p = &problem{code: codeInvalid, param: "expires_at", detail: "expires_at must be later than effective_at"}
	}
	if p != nil {
		return 0, nil, p
	}
	rank, p := g.rank(c.names[0], b.Bucket)
	if p != nil {
		return 0, nil, p
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.admin.Grant(ctx, NewGrant{
		Account: c.names[0], Bucket: b.Bucket, Rank: rank, Credits: *b.Credits, EffectiveAt: orZero(b.EffectiveAt),
		ExpiresAt: orZero(b.ExpiresAt), Ref: ref, Reason: b.Reason, Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	return changed(s.Applied, s.Repeated), newGrantView(s), nil
}

func positive(c *meter.Credits) *problem {
	if c == nil || *c <= 0 {
		return &problem{code: codeInvalid, param: "credits", detail: "credits must be a number above 0, such as 3 or 0.25"}
	}
	return nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// rank is the place of a bucket in the drain order of the account's product.
func (g *Gateway) rank(account, bucket string) (uint8, *problem) {
	a, err := g.readAdminAccount(account)
	if err != nil {
		return 0, g.readProblem(err)
	}
	p := g.policies.Policy(a.Product)
	if p == nil {
		return 0, &problem{code: codeInvalid, detail: "no policy is loaded for product " + strconv.Quote(a.Product)}
	}
	rank, ok := p.Rank(bucket)
	if !ok {
		detail := "bucket " + strconv.Quote(shorten(bucket)) + " is not known; "
		if bucket == "" {
			detail = "bucket is required; "
		}
		return 0, &problem{
			code: codeInvalid, param: "bucket", detail: detail + a.Product + " has " + strings.Join(p.Buckets, ", "),
		}
	}
	return rank, nil
}

// expiryBody tells an absent expires_at from null, which means never.
type expiryBody struct {
	ExpiresAt   givenTime `json:"expires_at"`
	ExternalRef string    `json:"external_ref"`
	Reason      string    `json:"reason"`
}

type givenTime struct {
	given bool
	at    time.Time
}

// UnmarshalJSON reads a time or null.
func (t *givenTime) UnmarshalJSON(b []byte) error {
	t.given = true
	if string(b) == "null" {
		return nil
	}
	return t.at.UnmarshalJSON(b)
}

// patchGrant moves the expiry of a grant. It sets, so repeating it changes nothing.
func (g *Gateway) patchGrant(c *call) (int, any, *problem) {
	var b expiryBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, true)
	if p == nil {
		p = checkReason(b.Reason)
	}
	if p == nil && !b.ExpiresAt.given {
		p = &problem{code: codeInvalid, param: "expires_at", detail: "expires_at is required: a time, or null for never"}
	}
	if p != nil {
		return 0, nil, p
	}
	id, err := meter.ParseID(c.names[1])
	if err != nil {
		return 0, nil, &problem{code: codeNotFound, detail: notAGrant(c.names[1])}
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.admin.MoveExpiry(ctx, ExpiryChange{
		Account: c.names[0], GrantID: id, ExpiresAt: b.ExpiresAt.at, Ref: ref, Reason: b.Reason, Actor: c.actor,
	})
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	return changed(s.Applied, true), newGrantView(s), nil
}

func notAGrant(text string) string {
	return strconv.Quote(shorten(text)) + " is not the id of a grant, which is a UUID such as 01a204b5-3456-7300-b1bf-0e6873ebea51"
}

type revocationBody struct {
	GrantID     string         `json:"grant_id"`
	PurchaseRef string         `json:"purchase_ref"`
	Credits     *meter.Credits `json:"credits"`
	ExternalRef string         `json:"external_ref"`
	Reason      string         `json:"reason"`
}

type revocationView struct {
	RevocationID meter.ID      `json:"revocation_id"`
	GrantID      meter.ID      `json:"grant_id"`
	Credits      meter.Credits `json:"credits"`
	Applied      bool          `json:"applied"`
	ExternalRef  string        `json:"external_ref"`
	// What was there to be taken, what became debt, what was written off; null until the ledger has it.
	Taken      *meter.Credits `json:"taken"`
	Debt       *meter.Credits `json:"debt"`
	WrittenOff *meter.Credits `json:"written_off"`
}

// postRevocation takes credit back: what is available at once, the rest as the grant's debt.
func (g *Gateway) postRevocation(c *call) (int, any, *problem) {
	var b revocationBody
	if p := c.decode(&b); p != nil {
		return 0, nil, p
	}
	ref, p := c.reference(b.ExternalRef, true)
	if p == nil {
		p = checkReason(b.Reason)
	}
	r := NewRevocation{Account: c.names[0], PurchaseRef: b.PurchaseRef, Ref: ref, Reason: b.Reason, Actor: c.actor}
	if p == nil {
		p = b.target(&r)
	}
	if p != nil {
		return 0, nil, p
	}
	ctx, cancel := g.within(storageTimeout)
	defer cancel()
	s, err := g.admin.Revoke(ctx, r)
	if err != nil {
		return 0, nil, g.storageProblem(err)
	}
	v := revocationView{
		RevocationID: s.RevocationID, GrantID: s.GrantID, Credits: s.Credits, Applied: s.Applied, ExternalRef: s.Ref,
	}
	if s.Booked != nil {
		v.Taken, v.Debt, v.WrittenOff = &s.Booked.Taken, &s.Booked.Debt, &s.Booked.WrittenOff
	}
	return changed(s.Applied, s.Repeated), v, nil
}

// target checks what is to be revoked, and that there is a reason: it is the customer's money.
func (b *revocationBody) target(r *NewRevocation) *problem {
	switch {
	case (b.GrantID == "") == (b.PurchaseRef == ""):
		return &problem{code: codeInvalid, param: "grant_id", detail: "send one of grant_id and purchase_ref"}
	case b.PurchaseRef != "" && !meter.ValidName(b.PurchaseRef):
		return badName("purchase_ref", b.PurchaseRef)
	case b.Reason == "":
		return &problem{code: codeInvalid, param: "reason", detail: "reason is required: a revocation takes credit from a customer"}
	}
	if b.GrantID != "" {
		id, err := meter.ParseID(b.GrantID)
		if err != nil {
			return &problem{code: codeInvalid, param: "grant_id", detail: "grant_id: " + notAGrant(b.GrantID)}
		}
		r.GrantID = id
	}
	if b.Credits != nil {
		r.Credits = *b.Credits
		return positive(b.Credits)
	}
	return nil
}
