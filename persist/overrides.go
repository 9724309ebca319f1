package persist

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// NewOverride is what was negotiated with one account.
type NewOverride struct {
	Account string
	Ref     string
	Kind    string // contingent, fair_use or unit_credits
	Target  string // the bucket, or the operation
	Credits meter.Credits
	From    time.Time // zero, or past: now
	Until   time.Time // zero: until further notice
	Reason  string
	Actor   string
}

// OverrideState is an override as Postgres has it.
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
	Applied bool // Redis has what it changes
}

// ErrNoOverride says that the account has no such override.
var ErrNoOverride = errors.New("no such override")

// overridesMax bounds the overrides of one account that matter at a time.
const overridesMax = 64

func overrideKind(name string) policy.OverrideKind {
	return map[string]policy.OverrideKind{
		"contingent": policy.Contingents, "fair_use": policy.FairUse, "unit_credits": policy.UnitCredits,
	}[name]
}

// check refuses what the account's policy has no place for.
func (n NewOverride) check(p *policy.Policy) error {
	unlimited := slices.ContainsFunc(p.Plans, func(plan *policy.Plan) bool { return unlimitedIn(plan, n.Target) })
	_, bucket := p.Rank(n.Target)
	switch kind := overrideKind(n.Kind); {
	case !meter.ValidName(n.Ref):
		return refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", n.Ref)
	case kind == 0:
		return refuseChoice("kind", n.Kind, "it is contingent, fair_use or unit_credits")
	case n.Credits < 0 || n.Credits > policy.AmountMax || n.Credits == 0 && kind == policy.UnitCredits:
		return refuse(ErrInvalid, "credits", "%s credits; a contingent is 0 or more, a price above 0, at most %s",
			n.Credits, policy.AmountMax)
	case !n.Until.IsZero() && !n.Until.After(n.From):
		return refuse(ErrInvalid, "until", "until %s is not after from", n.Until.Format(time.RFC3339))
	case kind == policy.UnitCredits && n.Credits > policy.UnitCreditsMax:
		return refuse(ErrInvalid, "credits", "%s credits; a unit costs at most %s", n.Credits, policy.UnitCreditsMax)
	case kind == policy.UnitCredits:
		return n.checkPrice(p)
	case !bucket:
		return refuseChoice("target", n.Target, "it is a bucket of "+p.Name+", which has "+listed(p.Buckets))
	case kind == policy.FairUse && !unlimited:
		return refuse(ErrInvalid, "target", "target %q is unlimited in no plan of %s; use kind contingent", n.Target, p.Name)
	}
	return nil
}

// checkPrice refuses a price of an operation that has none, and a discount where the product gives none: a price below
// the dearest that a unit can have.
func (n NewOverride) checkPrice(p *policy.Policy) error {
	var names []string
	for _, o := range p.Operations {
		if o.Free() { // a free operation is neither priced nor read
			continue
		}
		names = append(names, o.Name)
		if list := o.MaxQuote().UnitCredits; o.Name == n.Target && n.Credits < list && !p.Rules.Discounts {
			return refuse(ErrInvalid, "credits", "%s credits are below the list price of %s, which is %s credits a unit, and %s "+
				"gives no discounts; ask for at least that, or write purchases: {discounts: allowed} in its policy",
				n.Credits, o.Name, list, p.Name)
		}
	}
	if !slices.Contains(names, n.Target) {
		return refuseChoice("target", n.Target, "it is a priced operation of "+p.Name+", which has "+listed(names))
	}
	return nil
}

func unlimitedIn(plan *policy.Plan, bucket string) bool {
	return slices.ContainsFunc(plan.Contingents, func(c policy.Contingent) bool { return c.Bucket == bucket && c.Unlimited })
}

// fits refuses a number that no plan of the account reads while it lasts: an unlimited bucket has a fair-use cap and no
// contingent, any other the reverse. An account without a plan may have what its first one will read.
func (n NewOverride) fits(p *policy.Policy, history policy.History) error {
	kind := overrideKind(n.Kind)
	if kind == policy.UnitCredits {
		return nil
	}
	terms := slices.Clone(history.Future(n.From))
	if t, ok := history.At(n.From); ok {
		terms = append(terms, t)
	}
	var unread []string
	for _, t := range terms {
		plan, ok := p.Plan(t.Plan)
		if !ok || !n.Until.IsZero() && !t.At.Before(n.Until) {
			continue
		}
		if unlimitedIn(plan, n.Target) == (kind == policy.FairUse) {
			return nil
		}
		unread = append(unread, plan.Name)
	}
	switch {
	case len(unread) == 0:
		return nil
	case kind == policy.FairUse:
		return refuse(ErrInvalid, "kind", "%q is not unlimited in plan %s of the account; use kind contingent",
			n.Target, listed(unread))
	}
	return refuse(ErrInvalid, "kind", "%q is unlimited in plan %s of the account; use kind fair_use, which is its cap",
		n.Target, listed(unread))
}

// PutOverride records an override, and issues what it changes. The same reference again changes nothing.
func (a *Admin) PutOverride(ctx context.Context, n NewOverride) (state OverrideState, err error) {
	content := fingerprint(n.Account, n.Kind, n.Target, n.Credits, stamp(n.From), stamp(n.Until), n.Reason)
	created := false
	err = a.tx(ctx, "put override "+n.Ref, func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, n.Account); err != nil {
			return err
		}
		var same bool
		err := tx.QueryRow(ctx, `SELECT fingerprint = $2 FROM creditgate.override WHERE external_ref = $1`, n.Ref, content).Scan(&same)
		if err == nil && !same {
			return refConflict(n.Ref)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		now := a.clock.Now().Truncate(time.Millisecond).UTC()
		s, p, err := a.subscriber(ctx, tx, n.Account, now)
		if err != nil {
			return err
		}
		now = s.moment(now)
		if n.From.Before(now) {
			n.From = now
		}
		n.From, n.Until = n.From.Truncate(time.Millisecond).UTC(), n.Until.Truncate(time.Millisecond).UTC()
		if err := n.check(p); err != nil {
			return err
		}
		if err := n.fits(p, s.history); err != nil {
			return err
		}
		if len(s.overrides) >= overridesMax {
			return refuse(ErrInvalid, "", "the account has %d overrides, which is the most", len(s.overrides))
		}
		created = true
		_, err = tx.Exec(ctx, `INSERT INTO creditgate.override
				(external_ref, account, kind, target, credits, from_at, until_at, fingerprint, reason, actor)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, n.Ref, n.Account, n.Kind, n.Target, int64(n.Credits), n.From,
			optionalTime(n.Until), content, n.Reason, n.Actor)
		if err != nil {
			return invalid(err)
		}
		return a.reread(ctx, tx, n.Account, now)
	})
	if err != nil {
		return state, refRace(err, n.Ref)
	}
	return a.overrideState(ctx, n.Account, n.Ref, created, a.applyIssued(ctx, n.Account))
}

// reread issues by what is recorded now.
func (a *Admin) reread(ctx context.Context, tx pgx.Tx, account string, now time.Time) error {
	s, p, err := a.subscriber(ctx, tx, account, now)
	if err != nil || len(s.history) == 0 {
		return err
	}
	return a.reissue(ctx, tx, s, p, now)
}

// EndOverride lets an override end now; one that has not begun never does. ErrNoOverride if the account has none under
// this reference.
func (a *Admin) EndOverride(ctx context.Context, account, ref, actor string) (OverrideState, error) {
	err := a.tx(ctx, "end override "+ref, func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, account); err != nil {
			return err
		}
		now := a.clock.Now().Truncate(time.Millisecond).UTC()
		s, _, err := a.subscriber(ctx, tx, account, now)
		if err != nil {
			return err
		}
		now = s.moment(now)
		if err := NameActor(ctx, tx, actor); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE creditgate.override SET until_at = greatest(from_at, $3)
			WHERE external_ref = $2 AND account = $1 AND (until_at IS NULL OR until_at > $3)`, account, ref, now)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		return a.reread(ctx, tx, account, now)
	})
	if err != nil {
		return OverrideState{}, err
	}
	return a.overrideState(ctx, account, ref, false, a.applyIssued(ctx, account))
}

func (a *Admin) overrideState(ctx context.Context, account, ref string, created, applied bool) (OverrideState, error) {
	all, err := a.Overrides(ctx, account)
	i := slices.IndexFunc(all, func(o OverrideState) bool { return o.Ref == ref })
	if err != nil || i < 0 {
		return OverrideState{}, errors.Join(err, fmt.Errorf("%w: %q of account %q", ErrNoOverride, ref, account))
	}
	all[i].Created, all[i].Applied = created, applied
	return all[i], nil
}

// Overrides lists what was negotiated with an account, those that are over too, by when they begin.
func (s *Store) Overrides(ctx context.Context, account string) ([]OverrideState, error) {
	rows, err := s.pool.Query(ctx, `SELECT external_ref, account, kind, target, credits, from_at, until_at, reason
		FROM creditgate.override WHERE account = $1 ORDER BY from_at, recorded_at`, account)
	if err != nil {
		return nil, storeError("list overrides", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o OverrideState, err error) {
		var until *time.Time
		err = row.Scan(&o.Ref, &o.Account, &o.Kind, &o.Target, (*int64)(&o.Credits), &o.From, &until, &o.Reason)
		o.From, o.Until = o.From.UTC(), timeOrZero(until)
		return o, err
	})
	return out, storeError("list overrides", err)
}
