package meter

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPlanDraws(t *testing.T) {
	t.Parallel()
	promo := Grant{ID: ID{1}, Available: 5, ExpiresMs: 90}
	over := Grant{ID: ID{2}, Available: 5, ExpiresMs: nowForTests}
	empty := Grant{ID: ID{3}, ExpiresMs: Never, Held: 4}
	monthly := Grant{ID: ID{4}, Available: 10, ExpiresMs: Never}
	future := Grant{ID: ID{5}, Available: 50, EffectiveMs: nowForTests + 1, ExpiresMs: Never}
	grants := []Grant{promo, over, empty, monthly, future}

	require.Equal(t, []Draw{{Grant: promo.ID, Amount: 3}}, PlanDraws(grants, 3, nowForTests))
	require.Equal(t, []Draw{{Grant: promo.ID, Amount: 5}}, PlanDraws(grants, 5, nowForTests))
	require.Equal(t, []Draw{{Grant: promo.ID, Amount: 5}, {Grant: monthly.ID, Amount: 10}},
		PlanDraws(grants, 15, nowForTests))
	require.Nil(t, PlanDraws(grants, 16, nowForTests), "neither the dead nor the future pay")
	require.Nil(t, PlanDraws(nil, 1, nowForTests))
}

func TestPlanDrawsProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		grants := anyGrants().Draw(t, "grants")
		amount := Credits(rapid.Int64Range(1, 400).Draw(t, "amount"))
		available := Account{Grants: grants}.Available(nowForTests)
		before := slices.Clone(grants)
		draws := PlanDraws(grants, amount, nowForTests)
		require.Equal(t, before, grants, "a plan changes nothing")
		if amount > available {
			require.Nil(t, draws, "all or nothing")
			return
		}
		var sum Credits
		next := 0 // the first grant that may still be drawn from
		for i, d := range draws {
			at := slices.IndexFunc(grants, func(g Grant) bool { return g.ID == d.Grant })
			require.GreaterOrEqual(t, at, next, "drain order, each grant once")
			for _, skipped := range grants[next:at] {
				require.True(t, !skipped.Live(nowForTests) || skipped.Available == 0, "no grant is passed over")
			}
			require.True(t, grants[at].Live(nowForTests), "the dead do not pay")
			require.Positive(t, d.Amount)
			require.LessOrEqual(t, d.Amount, grants[at].Available)
			if i < len(draws)-1 {
				require.Equal(t, grants[at].Available, d.Amount, "only the last draw leaves something")
			}
			require.Zero(t, d.Charged)
			sum, next = sum+d.Amount, at+1
		}
		require.Equal(t, amount, sum)
	})
}

func TestPlanCharge(t *testing.T) {
	t.Parallel()
	grants := []Grant{
		{ID: ID{1}, ExpiresMs: nowForTests},       // expired while held
		{ID: ID{2}, ExpiresMs: 90},                // free
		{ID: ID{3}, ExpiresMs: 90, Paid: true},    // paid
		{ID: ID{4}, ExpiresMs: Never, Paid: true}, // paid, drained last
		{ID: ID{5}, ExpiresMs: Never},             // free, drained last
		{ID: ID{6}, ExpiresMs: nowForTests, Paid: true},
	}
	var draws []Draw
	for _, g := range grants {
		draws = append(draws, Draw{Grant: g.ID, Amount: 2})
	}
	// The grants in the order in which they get their two back, one at a time.
	order := []int{3, 2, 4, 1, 5, 0}
	for charged := Credits(12); charged >= 0; charged-- {
		want, back := slices.Clone(draws), 12-charged
		for i := range want {
			want[i].Charged = 2
		}
		for _, i := range order {
			give := min(back, 2)
			want[i].Charged -= give
			back -= give
		}
		require.Equal(t, want, PlanCharge(draws, grants, charged, nowForTests), "charged %d", charged)
	}
}

func TestPlanChargeProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		grants := anyGrants().Draw(t, "grants")
		amount := Account{Grants: grants}.Available(nowForTests)
		draws := PlanDraws(grants, amount, nowForTests)
		charged := Credits(rapid.Int64Range(0, int64(amount)).Draw(t, "charged"))
		later := rapid.SampledFrom([]int64{nowForTests, nowForTests + 1, 90, Never}).Draw(t, "later")
		before := slices.Clone(draws)
		plan := PlanCharge(draws, grants, charged, later)
		require.Equal(t, before, draws, "a plan changes nothing")
		require.Len(t, plan, len(draws))
		var sum Credits
		for i, d := range plan {
			require.Equal(t, draws[i].Grant, d.Grant)
			require.Equal(t, draws[i].Amount, d.Amount)
			require.GreaterOrEqual(t, d.Charged, Credits(0))
			require.LessOrEqual(t, d.Charged, d.Amount)
			sum += d.Charged
		}
		require.Equal(t, charged, sum)
		requireReturnOrder(t, plan, grants, later)
	})
}

// requireReturnOrder checks every pair: a draw that keeps something returned nothing to a draw less deserving.
func requireReturnOrder(t *rapid.T, plan []Draw, grants []Grant, nowMs int64) {
	find := func(id ID) Grant {
		return grants[slices.IndexFunc(grants, func(g Grant) bool { return g.ID == id })]
	}
	for i := range plan {
		for j := range plan[:i] { // plan[j] is drained before plan[i]
			first, second := plan[i], plan[j] // of equals the last drained is returned first
			f, s := find(first.Grant), find(second.Grant)
			fAlive, sAlive := nowMs < f.ExpiresMs, nowMs < s.ExpiresMs
			if !fAlive && sAlive || fAlive == sAlive && !f.Paid && s.Paid {
				first, second = second, first
			}
			require.True(t, first.Charged == 0 || second.Charged == second.Amount,
				"%x must be returned whole before anything of %x", first.Grant, second.Grant)
		}
	}
}
