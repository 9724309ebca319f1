package meter

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// nowForTests lies in the middle of the times that anyGrant draws, so that live, future and dead grants all occur.
const nowForTests = 50

// anyGrant draws from few values, so that ties in rank, expiry and age are common.
func anyGrant() *rapid.Generator[Grant] {
	return rapid.Custom(func(t *rapid.T) Grant {
		rank := rapid.Uint8Range(0, 2).Draw(t, "rank")
		return Grant{
			ID:          anyID().Draw(t, "id"),
			Bucket:      []string{"promo", "monthly", "purchased"}[rank],
			Rank:        rank,
			Paid:        rapid.Bool().Draw(t, "paid"),
			Stops:       rapid.IntRange(0, 9).Draw(t, "stops") == 0,
			Available:   Credits(rapid.Int64Range(0, 20).Draw(t, "available")),
			Held:        Credits(rapid.Int64Range(0, 20).Draw(t, "held")),
			Debt:        Credits(rapid.Int64Range(0, 3).Draw(t, "debt")),
			EffectiveMs: rapid.SampledFrom([]int64{0, 10, nowForTests, nowForTests + 1}).Draw(t, "effective"),
			ExpiresMs:   rapid.SampledFrom([]int64{nowForTests - 1, nowForTests, nowForTests + 1, 90, Never}).Draw(t, "expires"),
			CreatedMs:   rapid.Int64Range(0, 2).Draw(t, "created"),
		}
	})
}

// anyGrants draws up to GrantsMax grants in drain order.
func anyGrants() *rapid.Generator[[]Grant] {
	return rapid.Map(rapid.SliceOfNDistinct(anyGrant(), 0, GrantsMax, func(g Grant) ID { return g.ID }),
		func(grants []Grant) []Grant {
			slices.SortFunc(grants, CompareGrants)
			return grants
		})
}

func TestGrantLive(t *testing.T) {
	t.Parallel()
	g := Grant{EffectiveMs: 10, ExpiresMs: 20}
	for now, want := range map[int64]bool{9: false, 10: true, 19: true, 20: false} {
		require.Equal(t, want, g.Live(now), "at %d", now)
	}
}

func TestDrainOrder(t *testing.T) {
	t.Parallel()
	want := []Grant{
		{Rank: 0, ExpiresMs: Never, CreatedMs: 9, ID: ID{9}}, // the bucket comes first, whatever the dates
		{Rank: 1, ExpiresMs: 5, CreatedMs: 9, ID: ID{9}},     // then the earliest expiry
		{Rank: 1, ExpiresMs: 6, CreatedMs: 1, ID: ID{9}},     // then the oldest
		{Rank: 1, ExpiresMs: 6, CreatedMs: 2, ID: ID{1}},     // then the id
		{Rank: 1, ExpiresMs: 6, CreatedMs: 2, ID: ID{1, 1}},
		{Rank: 1, ExpiresMs: Never, CreatedMs: 0, ID: ID{0}}, // never is last
		{Rank: 2, ExpiresMs: 0, CreatedMs: 0, ID: ID{0}},
	}
	rapid.Check(t, func(t *rapid.T) {
		got := slices.Clone(want)
		got = rapid.Permutation(got).Draw(t, "shuffled")
		slices.SortFunc(got, CompareGrants)
		require.Equal(t, want, got)
	})
}

func TestCompareGrantsIsATotalOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyGrant().Draw(t, "a"), anyGrant().Draw(t, "b"), anyGrant().Draw(t, "c")
		require.Zero(t, CompareGrants(a, a))
		require.Equal(t, CompareGrants(a, b), -CompareGrants(b, a), "antisymmetric")
		if a.ID != b.ID {
			require.NotZero(t, CompareGrants(a, b), "different grants are never tied")
		}
		if CompareGrants(a, b) <= 0 && CompareGrants(b, c) <= 0 {
			require.LessOrEqual(t, CompareGrants(a, c), 0, "transitive")
		}
	})
}

func TestBuckets(t *testing.T) {
	t.Parallel()
	a := Account{Grants: []Grant{
		{Bucket: "promo", Available: 5, Held: 1, ExpiresMs: 90},
		{Bucket: "promo", Available: 6, ExpiresMs: 80},
		{Bucket: "promo", Available: 7, ExpiresMs: 80},
		{Bucket: "promo", Available: 0, ExpiresMs: 60},                                    // nothing of it will expire
		{Bucket: "monthly", Available: 4, Held: 2, ExpiresMs: nowForTests},                // over: only what is held counts
		{Bucket: "monthly", Available: 3, EffectiveMs: nowForTests + 1, ExpiresMs: Never}, // not yet
		{Bucket: "purchased", Available: 9, Debt: 2, ExpiresMs: Never},                    // never expires
		{Bucket: "dropped", Available: 8, ExpiresMs: Never},                               // no longer in the policy
		{Bucket: "forgotten", Available: 8, ExpiresMs: nowForTests},                       // nor is this, and it is over
	}}
	require.Equal(t, []BucketBalance{
		{Name: "purchased", Available: 9},
		{Name: "monthly", Held: 2},
		{Name: "promo", Available: 18, Held: 1, NextExpiry: &Expiry{Credits: 13, AtMs: 80}},
		{Name: "empty"},
		{Name: "dropped", Available: 8},
	}, a.Buckets([]string{"purchased", "monthly", "promo", "empty"}, nowForTests))
}

func TestBucketsSumToTheAccount(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := Account{Grants: anyGrants().Draw(t, "grants")}
		names := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"promo", "monthly"}), rapid.ID).Draw(t, "names")
		var available, held Credits
		for i, b := range a.Buckets(names, nowForTests) {
			available, held = available+b.Available, held+b.Held
			if i < len(names) {
				require.Equal(t, names[i], b.Name)
			}
			if b.NextExpiry != nil {
				require.Positive(t, b.NextExpiry.Credits)
				require.LessOrEqual(t, b.NextExpiry.Credits, b.Available)
				require.Greater(t, b.NextExpiry.AtMs, int64(nowForTests))
			}
		}
		require.Equal(t, a.Available(nowForTests), available)
		require.Equal(t, a.Held(), held)
	})
}

// A cap stops the buckets behind its own, while it is in force, whether anything is left of it or not.
func TestACapStopsTheBucketsBehind(t *testing.T) {
	t.Parallel()
	promo := Grant{ID: ID{1}, Bucket: "promo", Available: 1, ExpiresMs: Never}
	limit := Grant{ID: ID{2}, Bucket: "monthly", Rank: 1, Stops: true, Unlimited: true, EffectiveMs: 10, ExpiresMs: 20}
	raised := Grant{ID: ID{3}, Bucket: "monthly", Rank: 1, Available: 4, EffectiveMs: 10, ExpiresMs: 20}
	purchased := Grant{ID: ID{4}, Bucket: "purchased", Rank: 2, Available: 8, Held: 2, ExpiresMs: Never}
	a := Account{Grants: []Grant{promo, limit, raised, purchased}}
	for now, want := range map[int64]Credits{9: 9, 10: 5, 19: 5, 20: 9} {
		require.Equal(t, want, a.Available(now), "at %d", now)
		stop, stopped := a.Stopped(now)
		require.Equal(t, now == 10 || now == 19, stopped, "at %d", now)
		require.Equal(t, stopped, a.Unlimited(now), "at %d", now)
		require.True(t, !stopped || stop.ID == limit.ID)
		require.Nil(t, PlanDraws(a.Grants, want+1, now), "at %d", now)
		require.NotNil(t, PlanDraws(a.Grants, want, now), "at %d", now)
	}
	require.Equal(t, []BucketBalance{
		{Name: "promo", Available: 1},
		{Name: "monthly", Available: 4, NextExpiry: &Expiry{Credits: 4, AtMs: 20}},
		{Name: "purchased", Held: 2},
	}, a.Buckets([]string{"promo", "monthly", "purchased"}, 15))
}
