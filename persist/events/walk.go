package events

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// walk goes along an index of dates, up to a horizon that moves with the time, and looks at each grant that it passes.
// A grant that appears behind it, because it was made late or its end was moved, is looked at when the ledger tells of
// it. Together nothing is missed, and what is looked at twice is told once.
type walk struct {
	name   string
	sql    string                                    // lots after ($1, $2) up to $3, at most $4
	along  func(b lot) time.Time                     // the date that is indexed
	ahead  time.Duration                             // how far the horizon is ahead of now
	future bool                                      // what is not ahead of now is no more to be told
	see    func(context.Context, *page, []lot) error // tells what is to be told
}

// walks are those that the policies in force ask for: the beginnings always, the endings for each product that wants
// to be told so many days ahead.
func (p *Producer) walks() []walk {
	walks := []walk{{
		name: "beginning", along: func(b lot) time.Time { return b.effective }, see: begun,
		sql: `SELECT ` + lotColumns + ` FROM creditgate.grant_lot t
			JOIN creditgate.grant_state s ON s.grant_id = t.id
			JOIN creditgate.account a ON a.id = t.account
			WHERE t.effective_at > t.created_at AND (t.effective_at, t.id) > ($1, $2) AND t.effective_at <= $3
			ORDER BY t.effective_at, t.id LIMIT $4`,
	}}
	for product, pol := range p.policies.All() {
		if n := pol.Notices.ExpiringDays; n > 0 {
			walks = append(walks, endings("expiring/"+product, product, days(n)))
		}
		if n := pol.Notices.PromotionEnding; n > 0 {
			walks = append(walks, endings("promotion/"+product, product, days(n)))
		}
	}
	return walks
}

// endings is a walk along the ends of grants. It looks at those of one product, because each has its own horizon.
func endings(name, product string, ahead time.Duration) walk {
	return walk{
		name: name, ahead: ahead, future: true,
		along: func(b lot) time.Time { return *b.expires },
		sql: `SELECT ` + lotColumns + ` FROM creditgate.grant_state s
			JOIN creditgate.grant_lot t ON t.id = s.grant_id
			JOIN creditgate.account a ON a.id = t.account
			WHERE s.live AND (s.expires_at, s.grant_id) > ($1, $2) AND s.expires_at <= $3
			ORDER BY s.expires_at, s.grant_id LIMIT $4`,
		see: func(ctx context.Context, g *page, lots []lot) error {
			return g.notice(ctx, slices.DeleteFunc(lots, func(b lot) bool { return b.product != product }))
		},
	}
}

// begun looks at grants that have just come into force: they renew subscriptions, may end soon, and lift their account.
func begun(ctx context.Context, g *page, lots []lot) error {
	touched := make([]touch, 0, len(lots))
	for _, b := range lots {
		touched = append(touched, touch{account: b.account, at: g.now})
	}
	if err := g.renewed(ctx, lots); err != nil {
		return err
	}
	if err := g.notice(ctx, lots); err != nil {
		return err
	}
	return g.levels(ctx, touched)
}

// step walks on by a page.
func (w walk) step(ctx context.Context, g *page) (more bool, err error) {
	horizon := g.now.Add(w.ahead)
	at, id, back, err := w.position(ctx, g, horizon)
	if err != nil {
		return false, err
	}
	rows, err := g.tx.Query(ctx, w.sql, at, [16]byte(id), horizon, pageGrants)
	if err != nil {
		return false, err
	}
	lots, err := pgx.CollectRows(rows, scanLot)
	if err != nil {
		return false, err
	}
	n := len(lots)
	if n == 0 && !back {
		return false, nil
	}
	if n > 0 {
		at, id = w.along(lots[n-1]), lots[n-1].id
		if err := w.see(ctx, g, lots); err != nil {
			return false, err
		}
	}
	_, err = g.tx.Exec(ctx, `INSERT INTO creditgate.event_walk (name, at, grant_id) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET at = excluded.at, grant_id = excluded.grant_id`, w.name, at, [16]byte(id))
	return n == pageGrants, err
}

// position is where the walk goes on. It goes back to the horizon when that has come nearer: the policy wants fewer
// days now, or this gateway's clock is behind the one that walked before.
func (w walk) position(
	ctx context.Context, g *page, horizon time.Time,
) (at time.Time, id meter.ID, back bool, err error) {
	err = g.tx.QueryRow(ctx, `SELECT at, grant_id FROM creditgate.event_walk WHERE name = $1`, w.name).
		Scan(&at, (*[16]byte)(&id))
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	if at.After(horizon) {
		at, id, back = horizon, meter.ID{}, true
	}
	if w.future && at.Before(g.now) {
		at, id = g.now, meter.ID{}
	}
	return at, id, back, err
}
