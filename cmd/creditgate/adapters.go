package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"creditgate/gateway"
	"creditgate/gateway/webhook"
	"creditgate/meter"
	"creditgate/meter/journal"
	"creditgate/meter/outage"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/events"
)

// gateway and persist do not know each other; here persist's types become those that gateway asks for. The structs
// convert where their fields are the same, so that a field added on one side alone does not compile.

var (
	_ gateway.Identities    = identities{}
	_ gateway.Ledger        = ledger{}
	_ gateway.Statements    = statements{}
	_ gateway.PolicySource  = policySource{}
	_ gateway.Fleet         = fleet{}
	_ gateway.Admin         = admin{}
	_ gateway.Purchases     = purchases{}
	_ gateway.Journal       = journalled{}
	_ gateway.Subscriptions = subscriptions{}
	_ gateway.Health        = health{}
	_ gateway.Feed          = feed{}
	_ gateway.Webhooks      = webhooks{}
	_ webhook.Queue         = deliveries{}
	_ gateway.Meter         = (*meter.Engine)(nil)
	_ gateway.Lookup        = (*meter.Engine)(nil)
	_ gateway.Answers       = (*meter.ReplayStore)(nil)
)

// asGateway says what went wrong in the words that gateway branches on.
func asGateway(err error) error {
	if r, ok := errors.AsType[*persist.RefusalError](err); ok {
		return asRefusal(r)
	}
	for missing, noun := range map[error]string{
		persist.ErrNoKey: "API key of this account", persist.ErrNoGrant: "grant of this account",
		persist.ErrNoPurchase: "purchase", persist.ErrNoRevocation: "revocation of this account",
		persist.ErrNoSubscription: "subscription of this account", persist.ErrNoOverride: "override of this account",
		events.ErrNoEndpoint: "webhook",
	} {
		if errors.Is(err, missing) {
			return &gateway.RefusalError{Is: gateway.ErrUnknown, Detail: "there is no such " + noun}
		}
	}
	var is error
	switch {
	case errors.Is(err, persist.ErrRefConflict):
		is = gateway.ErrConflict
	case errors.Is(err, persist.ErrInvalid):
		is = gateway.ErrInvalid
	case errors.Is(err, events.ErrTooManyEndpoints):
		is = gateway.ErrTooMany
	case errors.Is(err, persist.ErrTooManyGrants):
		is = gateway.ErrTooManyGrants
	default:
		return persist.Marked(err)
	}
	return fmt.Errorf("%w: %w", is, err)
}

func asRefusal(r *persist.RefusalError) error {
	is := gateway.ErrRefused
	switch {
	case errors.Is(r.Is, persist.ErrRefConflict):
		is = gateway.ErrConflict
	case errors.Is(r.Is, persist.ErrGrantGone):
		is = gateway.ErrGrantUsedUp
	case errors.Is(r.Is, persist.ErrExceedsGrant):
		is = gateway.ErrExceedsGrant
	case errors.Is(r.Is, persist.ErrInvalid):
		is = gateway.ErrInvalid
	case errors.Is(r.Is, persist.ErrNotEligible):
		is = gateway.ErrNotEligible
	case errors.Is(r.Is, persist.ErrSubscriptionRequired):
		is = gateway.ErrSubscriptionRequired
	case errors.Is(r.Is, persist.ErrNotRefundable):
		is = gateway.ErrNotRefundable
	}
	return &gateway.RefusalError{Is: is, Param: r.Param, Detail: r.Detail}
}

type identities struct{ store *persist.Store }

func (i identities) IdentityByKey(ctx context.Context, hash [32]byte) (gateway.Identity, error) {
	who, err := i.store.IdentityByKey(ctx, hash)
	return gateway.Identity(who), asGateway(err)
}

func (i identities) IdentityByAccount(ctx context.Context, account string) (gateway.Identity, error) {
	who, err := i.store.IdentityByAccount(ctx, account)
	if errors.Is(err, meter.ErrNoAccount) {
		err = fmt.Errorf("%w: %w", gateway.ErrUnknown, err)
	}
	return gateway.Identity(who), err
}

type ledger struct{ store *persist.Store }

func (l ledger) Entries(ctx context.Context, q gateway.HistoryQuery) ([]gateway.LedgerEntry, error) {
	entries, err := l.store.Entries(ctx, persist.HistoryQuery(q))
	out := make([]gateway.LedgerEntry, len(entries))
	for i, e := range entries {
		out[i] = gateway.LedgerEntry{
			EntryID: e.EntryID, Seq: e.Seq, Kind: e.Kind, Operation: e.Operation, Units: e.Units,
			Reservation: e.Reservation, RequestID: e.RequestID, OccurredAt: e.OccurredAt,
		}
		for _, line := range e.Lines {
			out[i].Lines = append(out[i].Lines, gateway.LedgerLine(line))
		}
	}
	return out, err
}

func (l ledger) Buckets(ctx context.Context, account string, grants []meter.ID) (map[meter.ID]string, error) {
	return l.store.Buckets(ctx, account, grants)
}

type statements struct{ store *persist.Store }

func (s statements) Statement(
	ctx context.Context, account string, live []meter.ID, at time.Time,
) (gateway.Statement, error) {
	v, err := s.store.Statement(ctx, account, live, at)
	out := gateway.Statement{Owed: v.Owed}
	for _, c := range v.Caps {
		out.Caps = append(out.Caps, gateway.FairUseCap(c))
	}
	return out, asGateway(err)
}

func (s statements) Usage(ctx context.Context, q gateway.UsageQuery) (gateway.Usage, error) {
	u, err := s.store.Usage(ctx, persist.UsageQuery(q))
	out := gateway.Usage{Total: gateway.UsageRow(u.Total), More: u.More}
	for _, r := range u.Rows {
		out.Rows = append(out.Rows, gateway.UsageRow(r))
	}
	return out, asGateway(err)
}

// policySource is where the node has its policies from.
type policySource struct {
	path  string
	store *persist.Store
}

func (p policySource) Load() (map[string]*policy.Policy, error) { return loadPolicies(p.path) }

func (p policySource) Uses(ctx context.Context, products []string) ([]gateway.PolicyUse, error) {
	uses, err := p.store.PolicyUses(ctx, products)
	out := make([]gateway.PolicyUse, len(uses))
	for i, u := range uses {
		out[i] = gateway.PolicyUse(u)
	}
	return out, err
}

func (p policySource) BucketUses(
	ctx context.Context, products []string, wanted func(product, bucket string, rank uint8) bool,
) ([]gateway.BucketUse, error) {
	uses, err := p.store.BucketUses(ctx, products, wanted)
	out := make([]gateway.BucketUse, len(uses))
	for i, u := range uses {
		out[i] = gateway.BucketUse(u)
	}
	return out, err
}

type fleet struct{ *persist.Fleet }

func (f fleet) Renew(ctx context.Context, s gateway.Standing) (newest int64, age time.Duration, err error) {
	return f.Fleet.Renew(ctx, persist.GatewayState(s))
}

func (f fleet) Gateways(ctx context.Context) ([]gateway.Standing, error) {
	all, err := f.Fleet.Gateways(ctx)
	out := make([]gateway.Standing, len(all))
	for i, s := range all {
		out[i] = gateway.Standing(s)
	}
	return out, err
}

type admin struct{ *persist.Admin }

func (a admin) PutAccount(ctx context.Context, c gateway.AccountChange) (gateway.AccountState, error) {
	state, err := a.Admin.PutAccount(ctx, persist.AccountChange(c))
	return gateway.AccountState(state), asGateway(err)
}

func (a admin) AccountState(ctx context.Context, account string) (gateway.AccountState, error) {
	state, err := a.Admin.AccountState(ctx, account)
	return gateway.AccountState(state), asGateway(err)
}

func (a admin) CreateKey(ctx context.Context, k gateway.NewKey) (gateway.KeyCreated, error) {
	created, err := a.Admin.CreateKey(ctx, persist.NewKey(k))
	return gateway.KeyCreated(created), asGateway(err)
}

func (a admin) RevokeKey(ctx context.Context, account, keyID, actor string) error {
	return asGateway(a.Admin.RevokeKey(ctx, account, keyID, actor))
}

func (a admin) Grant(ctx context.Context, g gateway.NewGrant) (gateway.GrantState, error) {
	state, err := a.Admin.Grant(ctx, persist.NewGrant{
		Account: g.Account, Bucket: g.Bucket, Rank: g.Rank, Credits: g.Credits, EffectiveAt: g.EffectiveAt,
		ExpiresAt: g.ExpiresAt, Ref: g.Ref, Reason: g.Reason, Actor: g.Actor,
	})
	return gateway.GrantState(state), asGateway(err)
}

func (a admin) MoveExpiry(ctx context.Context, m gateway.ExpiryChange) (gateway.GrantState, error) {
	state, err := a.Admin.MoveExpiry(ctx, persist.ExpiryChange(m))
	return gateway.GrantState(state), asGateway(err)
}

func (a admin) Revoke(ctx context.Context, r gateway.NewRevocation) (gateway.RevocationState, error) {
	s, err := a.Admin.Revoke(ctx, persist.NewRevocation{
		Account: r.Account, GrantID: r.GrantID, PurchaseRef: r.PurchaseRef, Credits: r.Credits, Ref: r.Ref, Reason: r.Reason,
		Actor: r.Actor,
	})
	return gateway.RevocationState{
		RevocationID: s.RevocationID, GrantID: s.GrantID, Credits: s.Credits, Ref: s.Ref, Booked: (*gateway.Booked)(s.Booked),
		Applied: s.Applied, Repeated: s.Repeated,
	}, asGateway(err)
}

type purchases struct{ admin *persist.Admin }

func (p purchases) Purchase(ctx context.Context, n gateway.NewPurchase) (gateway.PurchaseState, error) {
	state, err := p.admin.Purchase(ctx, persist.NewPurchase(n))
	return gateway.PurchaseState(state), asGateway(err)
}

func (p purchases) PurchaseState(ctx context.Context, ref string) (gateway.PurchaseState, error) {
	state, err := p.admin.PurchaseState(ctx, ref)
	return gateway.PurchaseState(state), asGateway(err)
}

func (p purchases) Payment(ctx context.Context, n gateway.NewPayment) (gateway.PurchaseState, error) {
	state, err := p.admin.Payment(ctx, persist.NewPayment(n))
	return gateway.PurchaseState(state), asGateway(err)
}

func (p purchases) Reverse(ctx context.Context, r gateway.NewReversal) (gateway.ReversalState, error) {
	s, err := p.admin.Reverse(ctx, persist.NewReversal(r))
	return gateway.ReversalState{
		ReversalID: s.ReversalID, GrantID: s.GrantID, RevocationRef: s.RevocationRef, Ref: s.Ref, ExpiresAt: s.ExpiresAt,
		Undone: (*gateway.Undone)(s.Undone), Applied: s.Applied, Repeated: s.Repeated,
	}, asGateway(err)
}

type subscriptions struct{ admin *persist.Admin }

func asSubscription(s persist.Subscription, err error) (gateway.Subscription, error) {
	return gateway.Subscription{
		Account: s.Account, Plan: s.Plan, Slots: s.Slots, Yearly: s.Yearly, StartsAt: s.StartsAt, EndsAt: s.EndsAt,
		CycleStarts: s.Cycle.From, CycleEnds: s.Cycle.To, NextReset: s.NextReset,
		Scheduled: (*gateway.ScheduledTerm)(s.Scheduled), Created: s.Created, Applied: s.Applied,
	}, asGateway(err)
}

func (s subscriptions) PutSubscription(ctx context.Context, c gateway.SubscriptionChange) (gateway.Subscription, error) {
	return asSubscription(s.admin.PutSubscription(ctx, persist.SubscriptionChange(c)))
}

func (s subscriptions) EndSubscription(ctx context.Context, e gateway.SubscriptionEnd) (gateway.Subscription, error) {
	return asSubscription(s.admin.EndSubscription(ctx, persist.SubscriptionEnd(e)))
}

func (s subscriptions) Subscription(ctx context.Context, account string) (gateway.Subscription, error) {
	return asSubscription(s.admin.Subscription(ctx, account))
}

func (s subscriptions) PutOverride(ctx context.Context, n gateway.NewOverride) (gateway.OverrideState, error) {
	state, err := s.admin.PutOverride(ctx, persist.NewOverride(n))
	return gateway.OverrideState(state), asGateway(err)
}

func (s subscriptions) EndOverride(ctx context.Context, account, ref, actor string) (gateway.OverrideState, error) {
	state, err := s.admin.EndOverride(ctx, account, ref, actor)
	return gateway.OverrideState(state), asGateway(err)
}

func (s subscriptions) Overrides(ctx context.Context, account string) ([]gateway.OverrideState, error) {
	all, err := s.admin.Overrides(ctx, account)
	out := make([]gateway.OverrideState, len(all))
	for i, o := range all {
		out[i] = gateway.OverrideState(o)
	}
	return out, asGateway(err)
}

type journalled struct{ journal *journal.Journal }

func (j journalled) Append(s meter.Settle, attempted time.Time) error {
	_, err := j.journal.Append(journal.Commit, s, attempted)
	return err
}

type health struct {
	engine   *meter.Engine
	postgres *outage.Server
	flusher  *persist.Flusher
}

func (h health) Quarantined() int { return h.flusher.Quarantined() }

func (h health) Redis() outage.State { return h.engine.RedisState() }

func (h health) Postgres() outage.State { return h.postgres.State() }

func (h health) Closed() []meter.PartitionState {
	return slices.DeleteFunc(h.engine.Ready(), func(p meter.PartitionState) bool { return p.State == "open" })
}
