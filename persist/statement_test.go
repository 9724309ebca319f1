package persist_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// exec runs one statement as superuser.
func (b *bundle) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), persisttest.AsOwner(t, b.url))
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// term records a decision about a subscription; plan "" ends it.
func (b *bundle) term(t *testing.T, account string, n int, at time.Time, plan string, slots int, void bool) {
	t.Helper()
	b.exec(t, `INSERT INTO creditgate.subscription_term (account, n, at, plan, slots, anchor, void, fingerprint)
		VALUES ($1, $2, $3, nullif($4, ''), $5, $3, $6, sha256(''))`, account, n, at, plan, slots, void)
}

// override records a negotiated value.
func (b *bundle) override(t *testing.T, ref, account, kind, target string, credits int64, from time.Time, until *time.Time) {
	t.Helper()
	b.exec(t, `INSERT INTO creditgate.override
			(external_ref, account, kind, target, credits, from_at, until_at, fingerprint)
		VALUES ($1, $2, $3, $4, $5, $6, $7, sha256(''))`, ref, account, kind, target, credits, from, until)
}

func TestIdentityBringsWhatWasAgreed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "acme")
	b.putAccount(t, "plain")
	hash := sha256.Sum256([]byte("sk"))
	key := meter.NewID(time.Now()).String()
	_, err := b.store.CreateKey(t.Context(), persist.NewKey{Account: "acme", KeyID: key, Hash: hash})
	require.NoError(t, err)

	now := time.Now().UTC().Truncate(time.Millisecond)
	in := func(hours int) time.Time { return now.Add(time.Duration(hours) * time.Hour) }
	over := in(-1)
	b.term(t, "acme", 1, in(-100), "basic", 1, false)
	b.term(t, "acme", 2, in(-50), "professional", 2, false)
	b.term(t, "acme", 3, in(-50), "professional", 3, false) // at the same moment: the newer counts
	b.term(t, "acme", 4, in(-40), "premium", 1, true)
	b.term(t, "acme", 5, in(24), "", 0, false)
	b.override(t, "old", "acme", "unit_credits", "apply", 700, in(-90), &over)
	b.override(t, "frame", "acme", "unit_credits", "apply", 500, in(-30), nil)
	later := in(48)
	b.override(t, "spring", "acme", "unit_credits", "apply", 250, in(24), &later)
	b.override(t, "more", "acme", "contingent", "monthly", 9000, in(-30), nil)

	who, err := b.store.IdentityByKey(t.Context(), hash)
	require.NoError(t, err)
	require.Equal(t, persist.Identity{
		Account: "acme", Product: "studio", KeyID: key,
		Terms: policy.History{
			{At: in(-50), Plan: "professional", Slots: 2, Anchor: in(-50)},
			{At: in(-50), Plan: "professional", Slots: 3, Anchor: in(-50)},
			{At: in(24), Anchor: in(24)},
		},
		Prices: []policy.UnitPrice{
			{Operation: "apply", Credits: 500, From: in(-30), Ref: "frame", Reason: "negotiated price frame"},
			{
				Operation: "apply", Credits: 250, From: in(24), Until: later, Ref: "spring",
				Reason: "negotiated price spring",
			},
		},
	}, who)
	term, ok := who.Terms.At(now)
	require.True(t, ok)
	require.Equal(t, uint32(3), term.Slots)
	named, err := b.store.IdentityByAccount(t.Context(), "acme")
	require.NoError(t, err)
	who.KeyID = ""
	require.Equal(t, who, named)
	plain, err := b.store.IdentityByAccount(t.Context(), "plain")
	require.NoError(t, err)
	require.Equal(t, persist.Identity{Account: "plain", Product: "studio"}, plain)
	_, err = b.store.IdentityByAccount(t.Context(), "nobody")
	require.ErrorIs(t, err, meter.ErrNoAccount)
	_, err = b.store.IdentityByKey(t.Context(), sha256.Sum256([]byte("other")))
	require.ErrorIs(t, err, persist.ErrNoKey)
}

func TestStatement(t *testing.T) {
	t.Parallel()
	b := setup(t)
	used := b.addAccount(t, "acme")
	live := b.addGrant(t, "acme", "second", 20*meter.Credit)
	b.commit("acme", used, 10*meter.Credit, 0, meter.Note{Operation: "apply"})
	for ref, v := range map[string]persist.NewRevocation{
		"back-1": {GrantID: used, Credits: 4 * meter.Credit}, "back-2": {GrantID: live, Credits: 5 * meter.Credit},
	} {
		v.Account, v.Ref, v.Reason = "acme", ref, "refund"
		_, err := b.admin.Revoke(t.Context(), v)
		require.NoError(t, err)
	}
	b.flush(t)
	s, err := b.store.Statement(t.Context(), "acme", []meter.ID{live}, time.Now())
	require.NoError(t, err)
	require.Equal(t, persist.Statement{Owed: 4 * meter.Credit}, s)
	s, err = b.store.Statement(t.Context(), "acme", []meter.ID{live, used}, time.Now())
	require.NoError(t, err)
	require.Equal(t, persist.Statement{}, s, "what Redis holds is not counted twice")
}

// What a cap began with is known as long as it is in force, and whether anything is left of it.
func TestStatementOfCaps(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "acme")
	now := time.Now()
	grant := func(ref string, begins, ends time.Duration) meter.ID {
		t.Helper()
		g, err := b.admin.Grant(t.Context(), persist.NewGrant{
			Account: "acme", Bucket: "monthly", Rank: 1, Credits: 20 * meter.Credit, Ref: ref, Unlimited: true,
			EffectiveAt: now.Add(begins), ExpiresAt: now.Add(ends),
		})
		require.NoError(t, err)
		return g.GrantID
	}
	hour := time.Hour
	over, first := grant("over", -3*hour, -hour), grant("first", -hour, hour)
	second, next := grant("second", -hour, hour), grant("next", hour, 2*hour)
	b.commit("acme", first, 20*meter.Credit, 0, meter.Note{Operation: "apply"})
	_, err := b.admin.Revoke(t.Context(), persist.NewRevocation{
		Account: "acme", GrantID: second, Credits: 5 * meter.Credit, Ref: "less", Reason: "error",
	})
	require.NoError(t, err)
	b.flush(t)
	caps := func(at time.Time) []persist.FairUseCap {
		t.Helper()
		s, err := b.store.Statement(t.Context(), "acme", nil, at)
		require.NoError(t, err)
		return s.Caps
	}
	fairUse := func(id meter.ID, credits meter.Credits, usedUp bool) persist.FairUseCap {
		return persist.FairUseCap{Grant: id, Bucket: "monthly", Credits: credits * meter.Credit, UsedUp: usedUp}
	}
	require.Equal(t, []persist.FairUseCap{fairUse(first, 20, true), fairUse(second, 15, false)}, caps(now))
	require.Equal(t, []persist.FairUseCap{fairUse(next, 20, false)}, caps(now.Add(hour).Truncate(time.Millisecond)))
	require.Equal(t, []persist.FairUseCap{fairUse(over, 20, false)}, caps(now.Add(-2*hour)))
}

// booked writes the charges of an account at the times given, in hours after startMs.
func (b *bundle) booked(t *testing.T, account string, grant meter.ID, hours []int, note func(i int) meter.Note) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.account(account)
	for i, h := range hours {
		at := int64(startMs) + int64(h)*3_600_000
		b.pseq++
		a.Seq++
		e := commitEntry(account, meter.NewID(time.UnixMilli(at)), grant, 1000, 0, note(i))
		e.Seq = a.Seq
		b.ledger.append(t, meter.Record{
			Layout: layout.Number, Position: meter.Position{Epoch: b.ledger.epoch, Pseq: b.pseq},
			OccurredMs: at, Entries: []meter.Entry{e},
		})
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "acme")
	b.putAccount(t, "idle")
	grant := b.addGrant(t, "acme", "much", 1000*meter.Credit)
	other := b.addAccount(t, "other")
	keys := []string{"k1", "k2", "k1"}
	ops := []string{"apply", "apply", "generate"}
	note := func(i int) meter.Note { return meter.Note{Operation: ops[i%3], KeyID: keys[i%3]} }
	// startMs is 2026-09-21 14:13:20 UTC
	b.booked(t, "acme", grant, []int{1, 2, 3, 7, 8, 34, 100}, note)
	b.booked(t, "other", other, []int{2}, note)
	b.flush(t)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	midnight := func(day int) time.Time { return time.Date(2026, 9, day, 0, 0, 0, 0, berlin) }
	ask := func(by string, limit int, days ...int) persist.Usage {
		t.Helper()
		q := persist.UsageQuery{Account: "acme", By: by, Limit: limit}
		for _, d := range days {
			q.Bounds = append(q.Bounds, midnight(d))
		}
		u, err := b.store.Usage(t.Context(), q)
		require.NoError(t, err)
		return u
	}
	row := func(span int, name string, n int64) persist.UsageRow {
		return persist.UsageRow{Span: span, Name: name, Credits: meter.Credits(n) * meter.Credit, Units: n, Charges: n}
	}
	require.Equal(t, persist.Usage{
		Rows: []persist.UsageRow{row(0, "", 4), row(1, "", 1), row(2, "", 1)}, Total: row(0, "", 6),
	}, ask("day", 10, 21, 22, 23, 24), "23:13 in Berlin is the same day, 00:13 the next")
	require.Equal(t, persist.Usage{
		Rows: []persist.UsageRow{row(0, "apply", 4), row(0, "generate", 2)}, Total: row(0, "", 6),
	}, ask("operation", 10, 21, 24))
	require.Equal(t, persist.Usage{
		Rows: []persist.UsageRow{row(0, "k1", 4)}, Total: row(0, "", 6), More: true,
	}, ask("key", 1, 21, 24))
	require.Equal(t, persist.Usage{Rows: []persist.UsageRow{row(0, "", 1)}, Total: row(0, "", 1)}, ask("day", 10, 25, 27))
	require.Empty(t, ask("day", 10, 1, 2).Rows)
	require.Empty(t, ask("day", 10, 28, 29).Rows)
	u, err := b.store.Usage(t.Context(), persist.UsageQuery{
		Account: "idle", By: "key", Limit: 1, Bounds: []time.Time{midnight(1), midnight(30)},
	})
	require.NoError(t, err)
	require.Empty(t, u)
	_, err = b.store.Usage(t.Context(), persist.UsageQuery{
		Account: "nobody", By: "key", Limit: 1, Bounds: []time.Time{midnight(1), midnight(30)},
	})
	require.ErrorIs(t, err, meter.ErrNoAccount)
}

func TestUsageIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	now := time.Now()
	many := make([]time.Time, persist.UsageSpansMax+2)
	for i := range many {
		many[i] = now.Add(time.Duration(i) * time.Hour)
	}
	for name, q := range map[string]persist.UsageQuery{
		"by":     {By: "x", Bounds: many[:2], Limit: 1},
		"spans":  {By: "day", Bounds: many, Limit: 1},
		"none":   {By: "day", Bounds: many[:1], Limit: 1},
		"limit":  {By: "day", Bounds: many[:2], Limit: persist.UsageRowsMax + 1},
		"growth": {By: "day", Bounds: []time.Time{now, now}, Limit: 1},
	} {
		_, err := b.store.Usage(t.Context(), q)
		require.ErrorIs(t, err, persist.ErrInvalid, name)
	}
}

// The first entry of a month is found on the index, whatever stands before it: a year of an account is not read for a
// day of it.
func TestUsageReadsNoMoreThanItsDays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "acme")
	grant := b.addGrant(t, "acme", "much", 10_000*meter.Credit)
	hours := make([]int, 4000)
	for i := range hours {
		hours[i] = i
	}
	b.booked(t, "acme", grant, hours, func(int) meter.Note { return meter.Note{Operation: "apply"} })
	b.flush(t)
	b.exec(t, `ANALYZE creditgate.ledger_entry, creditgate.ledger_line`)
	from := time.UnixMilli(startMs).Add(3000 * time.Hour)
	u, err := b.store.Usage(t.Context(), persist.UsageQuery{
		Account: "acme", By: "day", Limit: 10, Bounds: []time.Time{from, from.Add(24 * time.Hour)},
	})
	require.NoError(t, err)
	require.Equal(t, int64(24), u.Total.Charges)
	slack := 10 * time.Minute
	plan := b.explain(t, persist.FirstEntry, "acme", from.Add(-slack))
	require.NotContains(t, plan, "Seq Scan on ledger", plan)
	bounds := []time.Time{from, from.Add(24 * time.Hour)}
	plan = b.explain(t, persist.UsageSums, "acme", int64(3001), int64(3030), bounds, "day", 10)
	require.NotContains(t, plan, "Seq Scan on ledger", plan)
	require.Contains(t, plan, "seq >= ", plan)
}

// explain is how Postgres runs a query, with what it has read.
func (b *bundle) explain(t *testing.T, sql string, args ...any) string {
	t.Helper()
	var lines []string
	for _, row := range b.query(t, "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) "+sql, args...) {
		lines = append(lines, fmt.Sprint(row[0]))
	}
	return strings.Join(lines, "\n")
}
