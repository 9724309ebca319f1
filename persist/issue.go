package persist

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// byPolicy is the actor of what a policy grants.
const byPolicy = "policy"

// pendingID names a change to be applied.
type pendingID struct {
	kind changeKind
	id   meter.ID
}

// issued is how far one account's grants go.
type issued struct {
	account, product, version string
	until, next               time.Time
}

// batch collects what one transaction issues, for any number of accounts.
type batch struct {
	now     time.Time
	works   []work
	done    []issued
	version map[string]string // of the policy, by account
}

// crowd ends what is unlimited and should not be, of a subscriber who has no room for what takes its place, and looks
// again later: soon where something ended, which makes room. A cap in the place of which another one begins stays until
// there is room for that, or who is unlimited by either would be left with nothing.
func (b *batch) crowd(s *subscriber, p *policy.Policy) {
	w, _, _ := s.plan(p, b.now)
	w.end = slices.DeleteFunc(w.end, func(g cycleGrant) bool {
		return !g.Unlimited || slices.ContainsFunc(w.issue, func(d issue) bool {
			return d.Unlimited && d.Bucket == g.Bucket && !d.EffectiveAt.After(b.now)
		})
	})
	next := b.now.Add(issueRetry)
	if len(w.end) > 0 {
		b.works = append(b.works, work{account: s.account, end: w.end})
		next = b.now.Add(settledIn)
	}
	b.done = append(b.done, issued{s.account, s.product, p.Version(), b.now, next})
}

// add plans one subscriber. ErrTooManyGrants leaves the batch as it was.
func (b *batch) add(s *subscriber, p *policy.Policy) error {
	w, until, next := s.plan(p, b.now)
	if !s.room(w) {
		return fmt.Errorf("%w: %q has %d and would get %d", ErrTooManyGrants, s.account, s.live, len(w.issue))
	}
	if !w.empty() {
		b.works = append(b.works, w)
		b.version[s.account] = p.Version()
	}
	b.done = append(b.done, issued{s.account, s.product, p.Version(), until, next})
	return nil
}

func newBatch(now time.Time) *batch { return &batch{now: now, version: map[string]string{}} }

// write records everything as pending, in a transaction that holds the accounts' locks, and returns the changes in the
// order in which they are to be applied: what is superseded before it began first, since it makes room; what is in force
// and ends at once last, so that there is no moment with neither.
func (s *Store) write(ctx context.Context, tx pgx.Tx, b *batch) (changes []pendingID, err error) {
	for _, w := range b.works {
		for _, g := range w.revoke {
			if changes, err = s.supersede(ctx, tx, w.account, g, g.EffectiveAt, changes); err != nil {
				return nil, err
			}
		}
	}
	if err := b.number(ctx, tx); err != nil {
		return nil, err
	}
	grants, err := s.writeGrants(ctx, tx, b)
	changes = append(changes, grants...)
	if err != nil {
		return nil, err
	}
	for _, w := range b.works {
		for _, m := range w.move {
			if changes, err = s.move(ctx, tx, w.account, m, "renewal moved", changes); err != nil {
				return nil, err
			}
		}
		for _, g := range w.end {
			if changes, err = s.move(ctx, tx, w.account, move{g.grant, g.Key, b.now}, superseded, changes); err != nil {
				return nil, err
			}
			if changes, err = s.supersede(ctx, tx, w.account, g, b.now, changes); err != nil {
				return nil, err
			}
		}
	}
	return changes, writeDue(ctx, tx, b)
}

// superseded is the reason for which a grant is taken back that something else replaces.
const superseded = "superseded"

// supersede takes back what is left of a grant, which is over at the moment at: when it would have begun, or now. What is
// held of it is settled with it, and is over if it comes back.
func (s *Store) supersede(
	ctx context.Context, tx pgx.Tx, account string, g cycleGrant, at time.Time, changes []pendingID,
) ([]pendingID, error) {
	r, err := s.recordRevocation(ctx, tx, NewRevocation{
		Account: account, GrantID: g.grant, Beyond: meter.BeyondNothing, Ref: derived(superseded, g.grant.String()),
		Reason: superseded, Actor: byPolicy,
	})
	switch {
	case err == nil:
		changes = append(changes, pendingID{revocationChange, r.id})
	case !errors.Is(err, ErrExceedsGrant): // that says that somebody took all of it back before
		return nil, err
	}
	_, err = tx.Exec(ctx, `UPDATE creditgate.cycle_grant SET superseded = true, expires_at = $2 WHERE grant_id = $1`,
		[16]byte(g.grant), at)
	return changes, err
}

// move lets a grant end at another time.
func (s *Store) move(
	ctx context.Context, tx pgx.Tx, account string, m move, reason string, changes []pendingID,
) ([]pendingID, error) {
	r, err := s.recordMove(ctx, tx, ExpiryChange{
		Account: account, GrantID: m.grant, ExpiresAt: m.to, Reason: reason, Actor: byPolicy,
		Ref: "moved-" + meter.NewID(s.clock.Now()).String(), // it may be moved there again, after it was moved back
	})
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `UPDATE creditgate.cycle_grant SET expires_at = $2 WHERE grant_id = $1`, [16]byte(m.grant), m.to)
	return append(changes, pendingID{expiryChange, r.id}), err
}

// number compares what is to be issued with what was given under the same keys and would be over by now, which
// subscribers does not read: a cycle or a promotion may be prolonged after its end was decided. What was given then was
// given, and what was superseded is followed by the next revision.
func (b *batch) number(ctx context.Context, tx pgx.Tx) error {
	var accounts, keys []string
	for _, w := range b.works {
		for _, i := range w.issue {
			accounts, keys = append(accounts, w.account), append(keys, i.Key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `SELECT account, key, max(revision), bool_and(superseded) FROM creditgate.cycle_grant
		JOIN unnest($1::text[], $2::text[]) u (account, key) USING (account, key) GROUP BY account, key`, accounts, keys)
	if err != nil {
		return err
	}
	type name struct{ account, key string }
	last, given := map[name]int{}, map[name]bool{}
	var n name
	var revision int
	var superseded bool
	_, err = pgx.ForEachRow(rows, []any{&n.account, &n.key, &revision, &superseded}, func() error {
		last[n], given[n] = revision, !superseded
		return nil
	})
	for i := range b.works {
		w := &b.works[i]
		w.issue = slices.DeleteFunc(w.issue, func(d issue) bool { return given[name{w.account, d.Key}] })
		for j := range w.issue {
			w.issue[j].revision = last[name{w.account, w.issue[j].Key}] + 1
		}
	}
	return err
}

// derived is a reference that follows from what it is for, so that the same thing is never recorded twice.
func derived(what string, from ...string) string {
	h := sha256.New()
	for _, f := range from {
		h.Write([]byte(f))
		h.Write([]byte{0})
	}
	return what + "-" + hex.EncodeToString(h.Sum(nil)[:20])
}

// grantRows are the columns of the grants of a batch.
type grantRows struct {
	ids                                              [][16]byte
	accounts, keys, versions, buckets, refs, reasons []string
	revisions                                        []int32
	ranks                                            []int16
	credits                                          []int64
	unlimited, stops                                 []bool
	effective, expires                               []time.Time
	fingerprints                                     [][]byte
}

func (r *grantRows) add(account, version string, i issue, id meter.ID) {
	reason := "contingent"
	if i.Promotion != "" {
		reason = "promotion " + i.Promotion
	}
	r.ids, r.accounts, r.keys = append(r.ids, id), append(r.accounts, account), append(r.keys, i.Key)
	r.versions, r.revisions = append(r.versions, version), append(r.revisions, int32(i.revision))
	r.buckets, r.ranks = append(r.buckets, i.Bucket), append(r.ranks, int16(i.Rank))
	r.credits, r.reasons = append(r.credits, int64(i.Credits)), append(r.reasons, reason)
	r.unlimited, r.stops = append(r.unlimited, i.Unlimited), append(r.stops, i.Stops)
	r.effective, r.expires = append(r.effective, i.EffectiveAt), append(r.expires, i.ExpiresAt)
	r.refs = append(r.refs, derived("cycle", account, i.Key, strconv.Itoa(i.revision)))
	r.fingerprints = append(r.fingerprints, fingerprint(account, i.Key, i.revision))
}

// writeGrants inserts all grants with one statement for each table, however many accounts they are of.
func (s *Store) writeGrants(ctx context.Context, tx pgx.Tx, b *batch) (changes []pendingID, err error) {
	var r grantRows
	for _, w := range b.works {
		for _, i := range w.issue {
			id := meter.NewID(b.now)
			r.add(w.account, b.version[w.account], i, id)
			changes = append(changes, pendingID{grantChange, id})
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.grant_lot (id, account, bucket, rank, credits, paid, unlimited, stops,
			effective_at, expires_at, external_ref, fingerprint, reason, actor, created_at)
		SELECT id, account, bucket, rank, credits, false, unlimited, stops, effective_at, expires_at, ref, fingerprint, reason,
			$13, $14
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::boolean[], $7::boolean[],
			$8::timestamptz[], $9::timestamptz[], $10::text[], $11::bytea[], $12::text[])
			u (id, account, bucket, rank, credits, unlimited, stops, effective_at, expires_at, ref, fingerprint, reason)`,
		r.ids, r.accounts, r.buckets, r.ranks, r.credits, r.unlimited, r.stops, r.effective, r.expires, r.refs,
		r.fingerprints, r.reasons, byPolicy, fromMs(b.now.UnixMilli()))
	if err != nil {
		return nil, invalid(err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.grant_state
			(grant_id, account, product, bucket, rank, unlimited, effective_at, credits, expires_at)
		SELECT u.id, u.account, a.product, u.bucket, u.rank, u.unlimited, u.effective_at, u.credits, u.expires
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::boolean[], $6::timestamptz[], $7::bigint[],
			$8::timestamptz[]) u (id, account, bucket, rank, unlimited, effective_at, credits, expires)
		JOIN creditgate.account a ON a.id = u.account`,
		r.ids, r.accounts, r.buckets, r.ranks, r.unlimited, r.effective, r.credits, r.expires)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO creditgate.cycle_grant (account, key, revision, grant_id, expires_at, policy_version)
		SELECT account, key, revision, id, expires, version
		FROM unnest($1::text[], $2::text[], $3::int[], $4::uuid[], $5::timestamptz[], $6::text[])
			u (account, key, revision, id, expires, version)`,
		r.accounts, r.keys, r.revisions, r.ids, r.expires, r.versions)
	return changes, err
}

// writeDue records how far each account's grants go now.
func writeDue(ctx context.Context, tx pgx.Tx, b *batch) error {
	accounts, products, versions := make([]string, len(b.done)), make([]string, len(b.done)), make([]string, len(b.done))
	until, next := make([]time.Time, len(b.done)), make([]*time.Time, len(b.done))
	for i, d := range b.done {
		accounts[i], products[i], versions[i] = d.account, d.product, d.version
		until[i], next[i] = d.until, optionalTime(d.next)
	}
	_, err := tx.Exec(ctx, `INSERT INTO creditgate.subscription_due AS d (account, product, policy_version, issued_until, due_at)
		SELECT account, product, version, until, next
		FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
			u (account, product, version, until, next)
		ON CONFLICT (account) DO UPDATE SET product = excluded.product, policy_version = excluded.policy_version,
			issued_until = excluded.issued_until, due_at = excluded.due_at`, accounts, products, versions, until, next)
	return err
}
