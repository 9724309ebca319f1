package persist

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// subscriber is what Postgres has of one account's subscription.
type subscriber struct {
	account   string
	product   string
	history   policy.History
	overrides []policy.Override
	given     []cycleGrant
	followers []follower
	live      int // grants that hold credit or are about to
}

// subscribers reads what deciding about accounts needs. The accounts' locks are held.
func subscribers(ctx context.Context, tx pgx.Tx, accounts []string, now time.Time) (map[string]*subscriber, error) {
	all := make(map[string]*subscriber, len(accounts))
	rows, err := tx.Query(ctx, `SELECT id, product FROM creditgate.account WHERE id = ANY($1)`, accounts)
	if err != nil {
		return nil, err
	}
	var account, product string
	_, err = pgx.ForEachRow(rows, []any{&account, &product}, func() error {
		all[account] = &subscriber{account: account, product: product}
		return nil
	})
	for _, read := range [...]func(context.Context, pgx.Tx, []string, time.Time, map[string]*subscriber) error{
		readTerms, readOverrides, readGiven, readFollowers, readLive,
	} {
		if err == nil {
			err = read(ctx, tx, accounts, now, all)
		}
	}
	return all, err
}

func readTerms(ctx context.Context, tx pgx.Tx, accounts []string, _ time.Time, all map[string]*subscriber) error {
	rows, err := tx.Query(ctx, `SELECT account, at, coalesce(plan, ''), slots, yearly, anchor FROM creditgate.subscription_term
		WHERE account = ANY($1) AND NOT void ORDER BY account, at, n`, accounts)
	if err != nil {
		return err
	}
	var account string
	var t policy.Term
	_, err = pgx.ForEachRow(rows, []any{&account, &t.At, &t.Plan, &t.Slots, &t.Yearly, &t.Anchor}, func() error {
		t.At, t.Anchor = t.At.UTC(), t.Anchor.UTC()
		all[account].history = append(all[account].history, t)
		return nil
	})
	return err
}

// overridesKept is how long an override that is over still matters: it may have raised what the running cycle gave, and
// a cycle whose anchor was moved lasts two months.
const overridesKept = 63 * 24 * time.Hour

func readOverrides(ctx context.Context, tx pgx.Tx, accounts []string, now time.Time, all map[string]*subscriber) error {
	rows, err := tx.Query(ctx, `SELECT account, kind, target, credits, from_at, until_at FROM creditgate.override
		WHERE account = ANY($1) AND until_at IS DISTINCT FROM from_at AND (until_at IS NULL OR until_at > $2)
		ORDER BY account, from_at, recorded_at`, accounts, now.Add(-overridesKept))
	if err != nil {
		return err
	}
	var account, kind string
	var o policy.Override
	var until *time.Time
	_, err = pgx.ForEachRow(rows, []any{&account, &kind, &o.Target, (*int64)(&o.Credits), &o.From, &until}, func() error {
		o.Kind, o.From, o.Until = overrideKind(kind), o.From.UTC(), timeOrZero(until)
		all[account].overrides = append(all[account].overrides, o)
		return nil
	})
	return err
}

// givenKept is how long what is over still matters: it counts in the cycle that gave it, and ended before that where the
// bucket became unlimited or is so no more.
const givenKept = overridesKept

// readGiven reads what was given, but for what was superseded before it began. Of what is over all counts as used but
// what lapsed and what was taken back when it was superseded: what is held does, what an administrator took back, and
// what the ledger does not have yet. What was superseded is over at once, also where the clock of the gateway that did
// so is ahead.
func readGiven(ctx context.Context, tx pgx.Tx, accounts []string, now time.Time, all map[string]*subscriber) error {
	now = now.Truncate(time.Millisecond) // from which on a decision counts
	rows, err := tx.Query(ctx, `SELECT c.account, c.key, c.grant_id, g.bucket, g.rank, g.credits, g.unlimited, g.stops,
			g.effective_at, CASE WHEN c.superseded THEN least(c.expires_at, $2) ELSE c.expires_at END,
			greatest(t.spent, g.credits - t.lapsed - coalesce(e.amount, 0)),
			CASE WHEN c.superseded THEN r.id IS NOT NULL AND e.subject IS NULL
				ELSE c.expires_at <= $2 AND g.credits > t.spent + t.revoked + t.lapsed END
		FROM creditgate.cycle_grant c JOIN creditgate.grant_lot g ON g.id = c.grant_id
		JOIN creditgate.grant_state t ON t.grant_id = c.grant_id
		LEFT JOIN creditgate.revocation r ON r.grant_id = c.grant_id AND r.actor = $4 AND r.reason = $5
		LEFT JOIN creditgate.ledger_entry e ON e.subject = r.id AND e.kind IN ('grant', 'revoke', 'adjust')
		WHERE c.account = ANY($1) AND c.expires_at > $3 AND NOT (c.superseded AND c.expires_at <= g.effective_at)`,
		accounts, now, now.Add(-givenKept), byPolicy, superseded)
	if err != nil {
		return err
	}
	var account string
	var g cycleGrant
	_, err = pgx.ForEachRow(rows, []any{
		&account, &g.Key, (*[16]byte)(&g.grant), &g.Bucket, &g.rank, (*int64)(&g.Credits), &g.Unlimited, &g.Stops,
		&g.EffectiveAt, &g.ExpiresAt, (*int64)(&g.Used), &g.unsettled,
	}, func() error {
		g.EffectiveAt, g.ExpiresAt = g.EffectiveAt.UTC(), g.ExpiresAt.UTC()
		all[account].given = append(all[account].given, g)
		return nil
	})
	return err
}

// readFollowers reads the bought credit that ends with the cycle. One whose end somebody set ends there: it follows no
// more.
func readFollowers(ctx context.Context, tx pgx.Tx, accounts []string, now time.Time, all map[string]*subscriber) error {
	rows, err := tx.Query(ctx, `SELECT account, id, expires_at FROM (
			SELECT g.account, g.id, CASE WHEN m.id IS NULL THEN t.expires_at ELSE m.expires_at END AS expires_at
			FROM creditgate.grant_lot g JOIN creditgate.grant_state t ON t.grant_id = g.id
			LEFT JOIN creditgate.expiry_move m ON m.grant_id = g.id AND m.status = 'pending'
			WHERE g.account = ANY($1) AND g.follows_renewal AND (t.live OR g.status = 'pending')
				AND NOT EXISTS (SELECT FROM creditgate.expiry_move h WHERE h.grant_id = g.id AND h.actor <> $3)) f
		WHERE expires_at > $2`, accounts, now, byPolicy)
	if err != nil {
		return err
	}
	var account string
	var f follower
	_, err = pgx.ForEachRow(rows, []any{&account, (*[16]byte)(&f.grant), &f.expiresAt}, func() error {
		f.expiresAt = f.expiresAt.UTC()
		all[account].followers = append(all[account].followers, f)
		return nil
	})
	return err
}

// readLive counts what checkRoom counts.
func readLive(ctx context.Context, tx pgx.Tx, accounts []string, now time.Time, all map[string]*subscriber) error {
	rows, err := tx.Query(ctx, `SELECT account, count(*) FROM (`+takingRoom+`) l GROUP BY account`,
		accounts, now.Add(-clockSkewMax))
	if err != nil {
		return err
	}
	var account string
	var live int
	_, err = pgx.ForEachRow(rows, []any{&account, &live}, func() error {
		all[account].live = live
		return nil
	})
	return err
}

// moment is when a change made at now counts: not in the very millisecond in which something begins that was given
// already, or in which another change counts, but in the one after it. Otherwise what begins there would have to be
// changed after it began.
func (s *subscriber) moment(now time.Time) time.Time {
	for slices.ContainsFunc(s.given, func(g cycleGrant) bool { return g.EffectiveAt.Equal(now) }) ||
		slices.ContainsFunc(s.history, func(t policy.Term) bool { return t.At.Equal(now) }) {
		now = now.Add(time.Millisecond)
	}
	return now
}

// plan is what is to be done for a subscriber by a policy, and until when grants are then issued.
func (s *subscriber) plan(p *policy.Policy, now time.Time) (w work, until, next time.Time) {
	cycle, _ := s.cycle(p, now)
	base := now
	if w, ok := p.CycleAt(s.history, now); ok && cycle.To.After(w.To) { // bridged: what follows is issued ahead all the same
		if _, active := s.history.At(cycle.To.Add(-1)); active {
			base = cycle.To.Add(-1)
		}
	}
	until, next = p.Ahead(s.history, base)
	if f := s.history.Future(now); len(f) > 0 && f[0].At.Before(cycle.To) && (next.IsZero() || f[0].At.Before(next)) {
		next = f[0].At // what was used of a cap until then, the cap that follows it is less
	}
	w = reconcile(p.Due(s.history, s.overrides, s.granted(), now, until), s.given, now)
	w.account = s.account
	w.move = append(w.move, follow(cycle, s.followers)...)
	if look := s.settles(cycle, w, now); !look.IsZero() && (next.IsZero() || look.Before(next)) {
		next = look
	}
	return w, until, next
}

// An account of which it is not known yet what was used of a grant is looked at again after a tenth of the time since the
// grant ended, so that a ledger that stands for days does not keep the issuers busy.
const (
	settledIn    = 5 * time.Second
	settledInMax = 5 * time.Minute
	settledPart  = 10
)

// settles is when to look again because what a cycle may give is not known until the ledger has how something ended
// within it; zero if all is known.
func (s *subscriber) settles(cycle policy.Window, w work, now time.Time) (look time.Time) {
	if len(w.end) > 0 {
		return now.Add(settledIn)
	}
	for _, g := range s.given {
		if g.unsettled && !g.IsPromotion() && cycle.Contains(g.EffectiveAt) && cycle.Contains(g.ExpiresAt) {
			at := now.Add(min(max(now.Sub(g.ExpiresAt)/settledPart, settledIn), settledInMax))
			if look.IsZero() || at.Before(look) {
				look = at
			}
		}
	}
	return look
}

// granted is what was given, as a policy counts it.
func (s *subscriber) granted() []policy.Given {
	out := make([]policy.Given, len(s.given))
	for i, g := range s.given {
		out[i] = g.Given
	}
	return out
}

// cycle is the cycle that runs at now, as it was given. What lasts until the next renewal ends with it. ok is false as
// for CycleAt.
func (s *subscriber) cycle(p *policy.Policy, now time.Time) (w policy.Window, ok bool) {
	return p.Runs(s.history, s.granted(), now)
}

// expiry is when credit of a pack bought at that time ends, as Policy.Expiry says, but with the cycle that runs at now
// as it was given.
func (s *subscriber) expiry(p *policy.Policy, l policy.Lifetime, bought, now time.Time) (at time.Time, ok bool) {
	at, ok = p.Expiry(l, s.history, bought)
	if w, runs := s.cycle(p, now); ok && l.Kind == policy.NextRenewal && runs && w.Contains(bought) {
		at = w.To
	}
	return at, ok
}

// room reports whether the account may have the grants of w. What is superseded makes room.
func (s *subscriber) room(w work) bool { return s.live+len(w.issue)-len(w.revoke) <= meter.GrantsMax }
