package gateway

import (
	"context"
	"time"

	"creditgate/meter"
)

// Subscriptions says what accounts are subscribed to, and what was negotiated with them. What an account is given by it
// follows from its policy. A reference seen before with the same content changes nothing.
type Subscriptions interface {
	// PutSubscription begins or changes a subscription. A *Refusal where the policy has no place for it.
	PutSubscription(ctx context.Context, c SubscriptionChange) (Subscription, error)
	// EndSubscription lets a subscription end; ErrUnknown if there never was one.
	EndSubscription(ctx context.Context, e SubscriptionEnd) (Subscription, error)
	// Subscription reads it; ErrUnknown if there never was one.
	Subscription(ctx context.Context, account string) (Subscription, error)

	// PutOverride records what was negotiated. A *Refusal where the policy has no place for it.
	PutOverride(ctx context.Context, n NewOverride) (OverrideState, error)
	// EndOverride ends it now; ErrUnknown if the account has none under this reference.
	EndOverride(ctx context.Context, account, ref, actor string) (OverrideState, error)
	// Overrides lists them, those that are over too.
	Overrides(ctx context.Context, account string) ([]OverrideState, error)
}

// SubscriptionChange says what an account's subscription shall be. What is nil or zero stays as it is.
type SubscriptionChange struct {
	Account  string
	Plan     string
	Slots    *uint32
	Yearly   *bool
	StartsAt time.Time
	AnchorAt time.Time
	Ref      string // may be empty
	Actor    string
}

// SubscriptionEnd ends a subscription at the end of what is paid for, or at once.
type SubscriptionEnd struct {
	Account string
	AtOnce  bool
	Ref     string // may be empty
	Actor   string
}

// Subscription is an account's subscription: the one in force, else the one to come, else the last.
type Subscription struct {
	Account     string
	Plan        string
	Slots       uint32
	Yearly      bool
	StartsAt    time.Time
	EndsAt      time.Time // zero: it goes on
	CycleStarts time.Time // zero: nothing is in force, or nothing is renewed
	CycleEnds   time.Time
	NextReset   time.Time // zero: there is none
	Scheduled   *ScheduledTerm
	Created     bool // there was none before this call
	Applied     bool
}

// ScheduledTerm is what a subscription becomes.
type ScheduledTerm struct {
	Plan   string
	Slots  uint32
	Yearly bool
	At     time.Time
}

// NewOverride is what was negotiated with one account.
type NewOverride struct {
	Account string
	Ref     string
	Kind    string // contingent, fair_use or unit_credits
	Target  string // the bucket, or the operation
	Credits meter.Credits
	From    time.Time // zero: now
	Until   time.Time // zero: until further notice
	Reason  string
	Actor   string
}

// OverrideState is an override as it is recorded.
type OverrideState struct {
	Ref     string
	Account string
	Kind    string
	Target  string
	Credits meter.Credits
	From    time.Time
	Until   time.Time // zero: until further notice
	Reason  string
	Created bool // by this call
	Applied bool
}
