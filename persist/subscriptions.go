package persist

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// SubscriptionChange says what an account's subscription shall be.
type SubscriptionChange struct {
	Account  string
	Plan     string
	Slots    *uint32   // nil: as they are
	Yearly   *bool     // nil: as it is, monthly at first
	StartsAt time.Time // zero, or past: as the rules of a change say
	AnchorAt time.Time // zero: as it is, when the subscription begins at first
	Ref      string    // may be empty
	Actor    string
}

// SubscriptionEnd ends an account's subscription: at the end of what is paid for, or at once.
type SubscriptionEnd struct {
	Account string
	AtOnce  bool
	Ref     string // may be empty
	Actor   string
}

// Subscription is an account's subscription as it is at present: the one in force, else the one to come, else the last.
type Subscription struct {
	Account   string
	Plan      string
	Slots     uint32
	Yearly    bool
	StartsAt  time.Time
	EndsAt    time.Time     // zero: it goes on
	Cycle     policy.Window // zero: nothing is in force, or nothing is renewed
	NextReset time.Time     // zero: there is none
	Scheduled *ScheduledTerm
	Created   bool // there was none before this call
	Applied   bool // Redis has every grant of it
}

// ScheduledTerm is what a subscription becomes.
type ScheduledTerm struct {
	Plan   string
	Slots  uint32
	Yearly bool
	At     time.Time
}

// ErrNoSubscription says that an account never had a subscription.
var ErrNoSubscription = errors.New("no subscription")

// PutSubscription begins or changes an account's subscription, and issues what that gives. Doing it again changes
// nothing.
func (a *Admin) PutSubscription(ctx context.Context, c SubscriptionChange) (Subscription, error) {
	content := fingerprint("put", c.Account, c.Plan, deref(c.Slots), deref(c.Yearly), stamp(c.StartsAt), stamp(c.AnchorAt))
	c.StartsAt, c.AnchorAt = c.StartsAt.Truncate(time.Millisecond).UTC(), c.AnchorAt.Truncate(time.Millisecond).UTC()
	return a.changeSubscription(ctx, c.Account, ref{c.Ref, c.Actor, content},
		func(p *policy.Policy, s *subscriber, now time.Time) (decision, error) {
			if err := c.checkTimes(now); err != nil {
				return decision{}, err
			}
			return decide(p, s.history, s.overrides, c, now)
		})
}

// deref is a fingerprint's form of what may be absent.
func deref[T any](v *T) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprint(*v)
}

// EndSubscription lets a subscription end. ErrNoSubscription if there never was one.
func (a *Admin) EndSubscription(ctx context.Context, e SubscriptionEnd) (Subscription, error) {
	var never Subscription // one that had not begun, and does not
	state, err := a.changeSubscription(ctx, e.Account, ref{e.Ref, e.Actor, fingerprint("end", e.Account, e.AtOnce)},
		func(p *policy.Policy, s *subscriber, now time.Time) (decision, error) {
			if len(s.history) == 0 {
				return decision{}, ErrNoSubscription
			}
			d := decideEnd(p, s.history, e.AtOnce, now)
			if len(d.history()) == 0 {
				never = s.view(p, now)
				never.EndsAt, never.NextReset, never.Applied = never.StartsAt, time.Time{}, true
			}
			return d, nil
		})
	if err == nil && state.Plan == "" {
		never.Applied = state.Applied
		return never, nil
	}
	return state, err
}

// Subscription returns an account's subscription. ErrNoSubscription if there never was one.
func (a *Admin) Subscription(ctx context.Context, account string) (state Subscription, err error) {
	err = a.snapshot(ctx, "read subscription of "+account, func(tx pgx.Tx) error {
		now := a.clock.Now()
		s, p, err := a.subscriber(ctx, tx, account, now)
		if err != nil {
			return err
		}
		if len(s.history) == 0 {
			return fmt.Errorf("%w: account %q", ErrNoSubscription, account)
		}
		state = s.view(p, now)
		return tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM creditgate.cycle_grant c JOIN creditgate.grant_lot g
			ON g.id = c.grant_id WHERE c.account = $1 AND g.status = 'pending')`, account).Scan(&state.Applied)
	})
	return state, err
}

// ref is under which reference a change of terms is recorded, and by whom.
type ref struct {
	external string
	actor    string
	content  []byte
}

// subscriber reads one account at the moment that is decided about, with the policy of its product.
func (a *Admin) subscriber(
	ctx context.Context, tx pgx.Tx, account string, now time.Time,
) (*subscriber, *policy.Policy, error) {
	all, err := subscribers(ctx, tx, []string{account}, now)
	if err != nil {
		return nil, nil, err
	}
	s := all[account]
	if s == nil {
		return nil, nil, fmt.Errorf("%w: %q", meter.ErrNoAccount, account)
	}
	p := a.policies.Policy(s.product)
	if p == nil {
		return nil, nil, refuse(ErrInvalid, "", "no policy is loaded for product %q of account %q", s.product, account)
	}
	return s, p, nil
}

// changeSubscription records what decide decides, issues what it gives in the same transaction, and applies it to Redis.
func (a *Admin) changeSubscription(
	ctx context.Context, account string, by ref, decide func(*policy.Policy, *subscriber, time.Time) (decision, error),
) (state Subscription, err error) {
	if by.external != "" && !meter.ValidName(by.external) {
		return state, refuse(ErrInvalid, "external_ref", "external_ref %q must match [A-Za-z0-9._-]{1,64}", by.external)
	}
	err = a.tx(ctx, "change subscription of "+account, func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, account); err != nil {
			return err
		}
		now := a.clock.Now().Truncate(time.Millisecond).UTC()
		s, p, err := a.subscriber(ctx, tx, account, now)
		if err != nil {
			return err
		}
		now = s.moment(now)
		repeated, err := earlierTerm(ctx, tx, by)
		if err != nil || repeated {
			state = s.view(p, now)
			return err
		}
		d, err := decide(p, s, now)
		if err != nil {
			return err
		}
		created := len(s.history) == 0
		if err = recordTerms(ctx, tx, account, d, s.history, by); err != nil {
			return err
		}
		if d.changes(s.history) {
			s.history = d.history()
			err = a.reissue(ctx, tx, s, p, now)
		}
		state = s.view(p, now)
		state.Created = created
		return err
	})
	if err != nil {
		return Subscription{}, refRace(err, by.external)
	}
	state.Applied = a.applyIssued(ctx, account)
	return state, nil
}

// reissue brings what one account was given into line with its history, in a transaction that holds its lock.
func (a *Admin) reissue(ctx context.Context, tx pgx.Tx, s *subscriber, p *policy.Policy, now time.Time) error {
	b := newBatch(now)
	if err := b.add(s, p); err != nil {
		return err
	}
	_, err := a.write(ctx, tx, b)
	return err
}

// view is the subscription at now.
func (s *subscriber) view(p *policy.Policy, now time.Time) Subscription {
	out := Subscription{Account: s.account}
	term, active := s.history.At(now)
	at := now
	future := s.history.Future(now)
	if !active {
		switch begun := s.history.Begun(now); {
		case len(future) > 0:
			at = future[0].At
		case len(begun) > 1:
			at = begun[len(begun)-1].At.Add(-1) // just before it ended
		default:
			return out
		}
		term, _ = s.history.At(at)
	}
	out.Plan, out.Slots, out.Yearly = term.Plan, term.Slots, term.Yearly
	out.StartsAt, out.EndsAt, _ = s.history.Run(at)
	if !active {
		return out
	}
	if w, ok := s.cycle(p, now); ok {
		out.Cycle = w
		if _, goesOn := s.history.At(w.To); goesOn {
			out.NextReset = w.To
		}
	}
	if len(future) > 0 && future[0].Plan != "" {
		f := future[0]
		out.Scheduled = &ScheduledTerm{f.Plan, f.Slots, f.Yearly, f.At}
	}
	return out
}
