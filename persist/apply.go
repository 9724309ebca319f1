package persist

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// applyWorkers bounds the grants on their way to Redis at once. Those of one moment share flights with the requests, so
// it also bounds what issuing adds to a flight.
const applyWorkers = 64

// applyAll brings changes to Redis in their order, but for grants, which are sent side by side. It reports whether Redis
// has all of them. With Redis away it gives up at the first; what is not applied stays pending.
func (a *Admin) applyAll(ctx context.Context, changes []pendingID) bool {
	var grants []meter.ID
	for _, c := range changes {
		if c.kind == grantChange {
			grants = append(grants, c.id)
		}
	}
	sent := false
	for _, c := range changes {
		switch {
		case c.kind != grantChange:
			if a.apply(ctx, c.kind, c.id) == notApplied {
				return false
			}
		case !sent:
			sent = true
			if !a.applyGrants(ctx, grants) {
				return false
			}
		}
	}
	return true
}

// applyIssued brings to Redis what of an account's subscription may not be there yet, by this call or an earlier one, and
// reports whether nothing is left. Where something in force was ended it waits for the ledger, which knows what was left
// of it, and gives what waited for that. If the ledger is slow the issuer does so.
func (a *Admin) applyIssued(ctx context.Context, account string) bool {
	ctx = context.WithoutCancel(ctx)
	done, ended := a.applyPending(ctx, account)
	if !done || ended == (meter.ID{}) || !a.awaitBooked(ctx, account, ended) {
		return done
	}
	err := a.tx(ctx, "settle what "+account+" was given", func(tx pgx.Tx) error {
		if err := lockAccount(ctx, tx, account); err != nil {
			return err
		}
		now := a.clock.Now().Truncate(time.Millisecond).UTC()
		s, p, err := a.subscriber(ctx, tx, account, now)
		if err != nil {
			return err
		}
		return a.reissue(ctx, tx, s, p, s.moment(now))
	})
	if err != nil {
		a.outages.Log(a.log, err).Msg("what an ended grant left is given by the issuer")
		return done
	}
	done, _ = a.applyPending(ctx, account)
	return done
}

// applyPending applies an account's changes by policy. It names the last revocation of what was in force, if there is one.
func (a *Admin) applyPending(ctx context.Context, account string) (done bool, ended meter.ID) {
	rows, err := a.pool.Query(ctx, `SELECT kind, id, step FROM (
			SELECT 'revocation' AS kind, r.id, CASE WHEN c.expires_at > g.effective_at THEN $3 ELSE 1 END AS step
				FROM creditgate.cycle_grant c JOIN creditgate.grant_lot g ON g.id = c.grant_id
				JOIN creditgate.revocation r ON r.grant_id = c.grant_id
				WHERE c.account = $1 AND r.status = 'pending' AND r.actor = $2
			UNION ALL SELECT 'grant', g.id, 2 FROM creditgate.cycle_grant c JOIN creditgate.grant_lot g ON g.id = c.grant_id
				WHERE c.account = $1 AND g.status = 'pending' AND NOT c.superseded
			UNION ALL SELECT 'expiry move', m.id, 3 FROM creditgate.grant_lot g JOIN creditgate.expiry_move m ON m.grant_id = g.id
				WHERE g.account = $1 AND m.status = 'pending' AND m.actor = $2) c
		ORDER BY step, id`, account, byPolicy, endStep)
	if err != nil {
		return false, ended
	}
	changes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c pendingID, err error) {
		var step int
		err = row.Scan((*string)(&c.kind), (*[16]byte)(&c.id), &step)
		if step == endStep {
			ended = c.id
		}
		return c, err
	})
	return err == nil && a.applyAll(ctx, changes), ended
}

// endsInForce reports whether a revocation takes back, by policy, what was in force then. What cannot be read is not.
func (a *Admin) endsInForce(ctx context.Context, revocation meter.ID) (ends bool) {
	err := a.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM creditgate.revocation r
			JOIN creditgate.cycle_grant c ON c.grant_id = r.grant_id JOIN creditgate.grant_lot g ON g.id = r.grant_id
			WHERE r.id = $1 AND r.actor = $2 AND r.reason = $3 AND c.expires_at > g.effective_at)`,
		[16]byte(revocation), byPolicy, superseded).Scan(&ends)
	return err == nil && ends
}

// endStep is the last step of applying what was issued: what was in force is taken back.
const endStep = 4

// applyGrants sends grants that were recorded just now.
func (a *Admin) applyGrants(ctx context.Context, ids []meter.ID) bool {
	if len(ids) == 1 {
		return a.apply(ctx, grantChange, ids[0]) != notApplied
	}
	grants, quarantined, err := a.pendingGrants(context.WithoutCancel(ctx), ids)
	if err != nil {
		a.outages.Log(a.log, err).Int("grants", len(ids)).Msg("grants stay pending")
		return false
	}
	var failed atomic.Bool
	queue := make(chan meter.GrantChange)
	var workers sync.WaitGroup
	for range min(applyWorkers, len(grants)) {
		workers.Go(func() {
			for g := range queue {
				if !failed.Load() && !a.applyGrant(ctx, g) {
					failed.Store(true)
				}
			}
		})
	}
	for _, g := range grants {
		queue <- g
	}
	close(queue)
	workers.Wait()
	return quarantined == 0 && !failed.Load()
}

// applyGrant sends one grant. Whatever Redis does not simply take goes the usual way.
func (a *Admin) applyGrant(ctx context.Context, g meter.GrantChange) bool {
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	d, err := a.engine.Grant(within, g)
	if err == nil && d.Code == meter.CodeOK {
		return true
	}
	if err != nil {
		a.behind[a.partitionOf(g.Account)].Store(true)
		a.outages.Log(a.log, err).Stringer("id", g.Grant.ID).Str("account", g.Account).Msg("grant stays pending")
		return false
	}
	return a.apply(ctx, grantChange, g.Grant.ID) != notApplied
}

// pendingGrants reads what applying grants to Redis needs, with the cursors of the same snapshot. Grants of accounts that
// are quarantined are counted and stay pending. They are no sign that Redis is away.
func (s *Store) pendingGrants(ctx context.Context, ids []meter.ID) (out []meter.GrantChange, quarantined int, err error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	keys := make([][16]byte, len(ids))
	for i, id := range ids {
		keys[i] = id
	}
	err = s.snapshot(ctx, "read grants", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT g.account, g.reason, g.actor, g.id, g.bucket, g.rank, g.paid, g.unlimited, g.stops,
				g.credits, g.effective_at, g.expires_at, g.created_at, p.cursor_pseq,
				EXISTS (SELECT FROM creditgate.quarantined_account h WHERE h.account = g.account)
			FROM creditgate.grant_lot g JOIN creditgate.account a ON a.id = g.account
			JOIN creditgate.partition p ON (p.layout, p.partition) = (a.layout, a.partition)
			WHERE g.id = ANY($1) AND g.status = 'pending'`, keys)
		if err != nil {
			return err
		}
		var c meter.GrantChange
		var effective, created time.Time
		var expires *time.Time
		var isQuarantined bool
		g := &c.Grant
		_, err = pgx.ForEachRow(rows, []any{
			&c.Account, &c.Note.Reason, &c.Note.Actor, (*[16]byte)(&g.ID), &g.Bucket, &g.Rank, &g.Paid,
			&g.Unlimited, &g.Stops, (*int64)(&g.Available), &effective, &expires, &created, &c.CheckedPseq, &isQuarantined,
		}, func() error {
			if isQuarantined {
				quarantined++
				return nil
			}
			g.EffectiveMs, g.CreatedMs, g.ExpiresMs = effective.UnixMilli(), created.UnixMilli(), expiryToMs(expires)
			out = append(out, c)
			return nil
		})
		return err
	})
	return out, quarantined, err
}
