package events

import (
	"time"

	"creditgate/meter"
)

// The types of events. Each is followed by what its data says.
const (
	// TypeGranted: the ledger has a new grant; contingents are granted a cycle ahead, so it may begin later. See Granted.
	TypeGranted = "credits.granted"
	// TypeLapsed: credit ended unused. See Lapsed.
	TypeLapsed = "credits.lapsed"
	// TypeLow: what is left fell below a threshold of the policy. See Low.
	TypeLow = "credits.low"
	// TypeExhausted: nothing is left. See Exhausted.
	TypeExhausted = "credits.exhausted"
	// TypeExpiring: a grant that still has credit ends within the days of the policy. See Expiring.
	TypeExpiring = "credits.expiring"
	// TypeFairUse: a share of a fair-use cap is used. See FairUse.
	TypeFairUse = "fair_use.warning"
	// TypePromotionEnding: a promotion of which the account still has credit ends. See PromotionEnding.
	TypePromotionEnding = "promotion.ending"
	// TypeRenewed: a subscription's next cycle began. See Renewed.
	TypeRenewed = "subscription.renewed"
	// TypePurchasePending: a purchase has no credit after some seconds; it waits for its payment, or for Redis. See Purchase.
	TypePurchasePending = "purchase.pending"
	// TypePurchaseApplied: the credit of a purchase is there. See Purchase.
	TypePurchaseApplied = "purchase.applied"
)

// Types are all of them.
func Types() []string {
	return []string{
		TypeGranted, TypeLapsed, TypeLow, TypeExhausted, TypeExpiring, TypeFairUse, TypePromotionEnding,
		TypeRenewed, TypePurchasePending, TypePurchaseApplied,
	}
}

// Event is one event of the feed.
type Event struct {
	ID      int64
	Type    string
	Account string
	Product string
	At      time.Time // when it happened or was found, in the time that grants begin and end by
	Data    []byte    // JSON; one of the structs below
}

// Granted says what was granted.
//
//	{"grant_id":"01a2…","bucket":"monthly","credits":10,"unlimited":false,"effective_at":"2026-04-01T00:00:00.000Z",
//	 "expires_at":"2026-05-01T00:00:00.000Z","entry_id":"1-01-17-0"}
type Granted struct {
	GrantID     meter.ID      `json:"grant_id"`
	Bucket      string        `json:"bucket"`
	Credits     meter.Credits `json:"credits"`
	Unlimited   bool          `json:"unlimited"` // then credits is the fair-use cap
	EffectiveAt stamp         `json:"effective_at"`
	ExpiresAt   *stamp        `json:"expires_at"` // null: never
	EntryID     string        `json:"entry_id"`
}

// Lapsed says what ended unused. A grant may lapse more than once: what a request gives back after the end lapses too.
// What was left of a fair-use cap does not count as lapsed.
//
//	{"grant_id":"01a2…","bucket":"promo","credits":2.5,"entry_id":"1-01-23-0"}
type Lapsed struct {
	GrantID meter.ID      `json:"grant_id"`
	Bucket  string        `json:"bucket"`
	Credits meter.Credits `json:"credits"`
	EntryID string        `json:"entry_id"`
}

// Low says that less than percent of what was granted is left, over all grants in force; what requests in flight hold
// counts as left. It comes once for each threshold of the policy, and again after credit was added that lifted the
// account above it. An account with an unlimited grant is never low.
//
//	{"percent":20,"available":11.5,"granted":60}
type Low struct {
	Percent   int           `json:"percent"`
	Available meter.Credits `json:"available"`
	Granted   meter.Credits `json:"granted"`
}

// Exhausted says that nothing is left of what was granted and is in force. It comes once until credit is added.
//
//	{"available":0,"granted":60}
type Exhausted struct {
	Available meter.Credits `json:"available"`
	Granted   meter.Credits `json:"granted"`
}

// Expiring says how much will lapse unless it is used. It comes once for each grant and end, and not for a grant of
// which nothing is left.
//
//	{"grant_id":"01a2…","bucket":"purchased","credits":42,"expires_at":"2027-03-31T22:00:00.000Z"}
type Expiring struct {
	GrantID   meter.ID      `json:"grant_id"`
	Bucket    string        `json:"bucket"`
	Credits   meter.Credits `json:"credits"`
	ExpiresAt stamp         `json:"expires_at"`
}

// FairUse says how much of a fair-use cap is used. It comes once for each percentage of the policy, and again when
// something was added: grants of one bucket are one cap, of which the newest is named. Unless the plan changes, that is once
// a cycle.
//
//	{"grant_id":"01a2…","bucket":"monthly","percent":80,"used":16012,"cap":20000,"resets_at":"2026-05-01T00:00:00.000Z"}
type FairUse struct {
	GrantID  meter.ID      `json:"grant_id"`
	Bucket   string        `json:"bucket"`
	Percent  int           `json:"percent"`
	Used     meter.Credits `json:"used"`
	Cap      meter.Credits `json:"cap"`
	ResetsAt *stamp        `json:"resets_at"` // null: never
}

// PromotionEnding says how much promotional credit the account loses at the end of the promotion. It comes once for
// each promotion and account, if anything is left.
//
//	{"promotion":"launch","bucket":"promo","credits":35,"ends_at":"2026-04-13T00:00:00.000Z"}
type PromotionEnding struct {
	Promotion string        `json:"promotion"`
	Bucket    string        `json:"bucket"`
	Credits   meter.Credits `json:"credits"`
	EndsAt    stamp         `json:"ends_at"`
}

// Renewed says that a subscription's next cycle began, and with what.
//
//	{"plan":"professional_plus","slots":3,"cycle":{"starts_at":"2026-04-01T00:00:00.000Z","ends_at":"2026-05-01T00:00:00.000Z"},
//	 "grants":[{"grant_id":"01a2…","bucket":"monthly","credits":30,"unlimited":false}]}
type Renewed struct {
	Plan   string       `json:"plan"`
	Slots  int          `json:"slots"`
	Cycle  Cycle        `json:"cycle"`
	Grants []Contingent `json:"grants"`
}

// Cycle is from when until when what was granted counts.
type Cycle struct {
	StartsAt stamp  `json:"starts_at"`
	EndsAt   *stamp `json:"ends_at"`
}

// Contingent is what a cycle brought in one bucket.
type Contingent struct {
	GrantID   meter.ID      `json:"grant_id"`
	Bucket    string        `json:"bucket"`
	Credits   meter.Credits `json:"credits"`
	Unlimited bool          `json:"unlimited"`
}

// Purchase says how a purchase stands; purchase_ref is its external_ref.
//
//	{"purchase_ref":"order-4711","pack":"plus-50","quantity":2,"credits":100,"bucket":"purchased","state":"awaiting_payment",
//	 "grant_id":null,"expires_at":null}
type Purchase struct {
	PurchaseRef string        `json:"purchase_ref"`
	Pack        string        `json:"pack"`
	Quantity    int           `json:"quantity"`
	Credits     meter.Credits `json:"credits"`
	Bucket      string        `json:"bucket"`
	State       string        `json:"state"` // awaiting_payment, pending (Redis is away), granted
	GrantID     *meter.ID     `json:"grant_id"`
	ExpiresAt   *stamp        `json:"expires_at"`
}

// stamp is a time as the API writes it: RFC 3339, UTC, milliseconds.
type stamp time.Time

// MarshalText writes it.
func (s stamp) MarshalText() ([]byte, error) {
	return time.Time(s).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000Z"), nil
}

func stampOrNull(t *time.Time) *stamp {
	if t == nil {
		return nil
	}
	s := stamp(*t)
	return &s
}
