package persist_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// settled books an entry of the kind for a reservation, with lines.
func (b *bundle) settled(kind meter.Kind, account string, id meter.ID, amount meter.Credits, lines ...meter.Line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range lines {
		if g := grantOf(b.account(account), l.Grant); g != nil {
			g.Available += l.Credits()
			g.Debt += l.Debt
		}
	}
	b.book(meter.Entry{
		Kind: kind, Account: account, ID: id, Amount: amount, Lines: lines,
		Note: meter.Note{Operation: "apply", PolicyVersion: "v7", KeyID: "key-1"},
	})
}

func TestFinanceViews(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada") // 10
	charged := b.commit("ada", grant, 2250, 750, meter.Note{Operation: "apply", PolicyVersion: "v7", KeyID: "key-1"})
	late := meter.NewID(time.Now())
	b.settled(meter.KindExpire, "ada", late, 3*meter.Credit, meter.Line{Grant: grant, Returned: 3 * meter.Credit})
	b.settled(meter.KindLate, "ada", late, 3*meter.Credit, meter.Line{Grant: grant, Spent: 3 * meter.Credit})
	b.settled(meter.KindUncollected, "ada", meter.NewID(time.Now()), 4*meter.Credit)
	b.settled(meter.KindLapse, "ada", grant, meter.Credit, meter.Line{Grant: grant, Lapsed: meter.Credit})
	b.flush(t)
	finance := persisttest.AsFinance(t, b.url)

	entries := queryAs(t, finance, `SELECT entry_id, seq, kind, bucket, grant_id::text, credits::text, operation, units,
		outcome, reservation_id, request_id::text, key_id, policy_version, reason, actor, corrects_entry_id
		FROM finance.entries WHERE account_id = 'ada' AND product = 'studio' ORDER BY seq`)
	g := grant.String()
	require.Equal(t, [][]any{
		{"1-00-1-0", int64(1), "grant", "promo", g, "10.000", nil, int64(0), nil, nil, nil, nil, nil, "welcome", "tests", nil},
		{
			"1-00-2-0", int64(2), "commit", "promo", g, "-2.250", "apply", int64(2), "committed", "1-00-" + charged.String(),
			charged.String(), "key-1", "v7", nil, nil, nil,
		},
		{
			"1-00-3-0", int64(3), "expire", "promo", g, "0.000", "apply", int64(0), "expired", "1-00-" + late.String(),
			late.String(), "key-1", "v7", nil, nil, nil,
		},
		{
			"1-00-4-0", int64(4), "late", "promo", g, "-3.000", "apply", int64(0), "late", "1-00-" + late.String(),
			late.String(), "key-1", "v7", nil, nil, "1-00-3-0",
		},
		entries[4],
		{"1-00-6-0", int64(6), "lapse", "promo", g, "-1.000", "apply", int64(0), nil, nil, nil, "key-1", "v7", nil, nil, nil},
	}, entries)
	require.Equal(t, []any{"uncollected", nil, nil, "0.000"}, entries[4][2:6], "an entry without lines has one row")

	require.Equal(t, [][]any{{"ada", "studio", "promo", int64(6), "10.000", "5.250", "1.000", "0.000", "3.750", "0.000"}},
		queryAs(t, finance, `SELECT account_id, product, bucket, seq, granted::text, spent::text, lapsed::text, revoked::text,
			credits::text, debt::text FROM finance.balances`))
	require.Equal(t, [][]any{{"ada", "apply", int64(2), int64(0), int64(1), int64(1), int64(2), "5.250", "4.000"}},
		queryAs(t, finance, `SELECT account_id, operation, charged, released, expired, uncollected, units, credits::text,
			uncollected_credits::text FROM finance.usage_by_operation`))

	// what the sum of entries says is what the account has
	a, _, err := b.store.Account(t.Context(), "ada")
	require.NoError(t, err)
	var sum pgtype.Numeric
	require.NoError(t, sum.Scan(a.Grants[0].Available.String()))
	require.Equal(t, [][]any{{true}}, queryAs(t, finance, `SELECT sum(credits) = $1::numeric FROM finance.entries`, sum))
	b.requireNoDrift(t)

	r, _, ok, err := b.store.Outcome(t.Context(), meter.ReservationID{Layout: 1, ID: late})
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, meter.Late, r.State)
	require.Equal(t, 3*meter.Credit, r.Amount)
	require.Equal(t, 3*meter.Credit, r.Charged)
	_, at, ok, err := b.store.Outcome(t.Context(), meter.ReservationID{Layout: 1, ID: meter.NewID(time.Now())})
	require.NoError(t, err)
	require.False(t, ok)
	require.EqualValues(t, 6, at.Pseq)
}

func TestHistoryPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	for range 6 {
		b.commit("ada", grant, meter.Credit, 0, meter.Note{Operation: "apply"})
	}
	b.flush(t)
	var seqs []uint64
	for before := uint64(0); ; {
		page, err := b.store.Entries(t.Context(), persist.HistoryQuery{Account: "ada", Before: before, Limit: 3})
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			seqs = append(seqs, e.Seq)
			require.Len(t, e.Lines, 1)
			require.Equal(t, "promo", e.Lines[0].Bucket)
		}
		before = page[len(page)-1].Seq
	}
	require.Equal(t, []uint64{7, 6, 5, 4, 3, 2, 1}, seqs)
	first, err := b.store.Entries(t.Context(), persist.HistoryQuery{Account: "ada", Before: 2, Limit: 1})
	require.NoError(t, err)
	require.Equal(t, "grant", first[0].Kind)
	require.Empty(t, first[0].Reservation)
	require.Equal(t, 10*meter.Credit, first[0].Lines[0].Credits)

	all, err := b.store.Entries(t.Context(), persist.HistoryQuery{Account: "ada", Limit: 10})
	require.NoError(t, err)
	for i, since := range all { // by time from each entry on, and just after it
		for _, from := range []time.Time{since.OccurredAt, since.OccurredAt.Add(time.Microsecond)} {
			got, err := b.store.Entries(t.Context(), persist.HistoryQuery{Account: "ada", Limit: 10, From: from})
			require.NoError(t, err)
			want := all[:i+1]
			for len(want) > 0 && want[len(want)-1].OccurredAt.Before(from) {
				want = want[:len(want)-1]
			}
			for j := i + 1; j < len(all) && !all[j].OccurredAt.Before(from); j++ {
				want = all[:j+1]
			}
			require.Len(t, got, len(want), "%s", from)
		}
	}
	for kind, n := range map[string]int{"grant": 1, "commit": 6, "release": 0} {
		got, err := b.store.Entries(t.Context(), persist.HistoryQuery{Account: "ada", Limit: 10, Kind: kind})
		require.NoError(t, err)
		require.Len(t, got, n, kind)
	}
	got, err := b.store.Entries(t.Context(), persist.HistoryQuery{
		Account: "ada", Limit: 10, Kind: "grant", From: all[0].OccurredAt.Add(time.Second),
	})
	require.NoError(t, err)
	require.Empty(t, got)

	_, err = b.store.Entries(t.Context(), persist.HistoryQuery{Account: "nobody", Limit: 10})
	require.ErrorIs(t, err, meter.ErrNoAccount)
	_, err = b.store.Entries(t.Context(), persist.HistoryQuery{Account: "ada"})
	require.ErrorIs(t, err, persist.ErrInvalid)
	buckets, err := b.store.Buckets(t.Context(), "ada", []meter.ID{grant, {1}})
	require.NoError(t, err)
	require.Equal(t, map[meter.ID]string{grant: "promo"}, buckets)
}

func TestKeyedOutcomesForARebuild(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	var want []meter.ID
	for i := range 3 {
		b.commit("ada", grant, meter.Credit, 0, meter.Note{}) // without a key: not wanted
		key := &meter.IdempotencyKey{Hash: [16]byte{byte(i)}, Fingerprint: [16]byte{9}}
		want = append(want, b.commit("ada", grant, meter.Credit, 0, meter.Note{Operation: "apply", Key: key}))
	}
	b.flush(t)
	var got []meter.ID
	require.NoError(t, b.store.KeyedOutcomes(t.Context(), 0, startMs+3, func(rs []meter.Reservation) error {
		for _, r := range rs {
			got = append(got, r.ID.ID)
			require.Equal(t, meter.Committed, r.State)
			require.Equal(t, [16]byte{9}, r.Note.Key.Fingerprint)
			require.Equal(t, []meter.Draw{{Grant: grant, Amount: meter.Credit, Charged: meter.Credit}}, r.Draws)
		}
		return nil
	}))
	require.Equal(t, want[1:], got, "the first was settled at the time given, not after it")
}
