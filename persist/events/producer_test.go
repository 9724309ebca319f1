package events_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/events"
)

// in is a moment so far ahead, in whole milliseconds.
func in(d time.Duration) time.Time { return time.Now().Add(d).UTC().Truncate(time.Millisecond) }

const day = 24 * time.Hour

func stamped(t time.Time) string { return t.Format("2006-01-02T15:04:05.000Z") }

func TestLowAndExhaustedOncePerFall(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{LowPercent: []int{20, 5}})
	stop := h.produce(t)
	h.account(t, "ada")
	low := func() []string { t.Helper(); return h.told(t, events.TypeLow, events.TypeExhausted) }
	h.grant(t, "ada", "purchased", 100, time.Time{}, in(365*day))

	h.spend(t, "ada", 80)
	require.Empty(t, low(), "20 of 100 is not below 20 %")
	h.spend(t, "ada", 1)
	want := []string{`credits.low ada {"available":19,"granted":100,"percent":20}`}
	require.Equal(t, want, low())
	stop()
	h.spend(t, "ada", 1)
	h.produce(t)
	require.Equal(t, want, low(), "once per threshold, also by the next producer")
	h.spend(t, "ada", 14)
	want = append(want, `credits.low ada {"available":4,"granted":100,"percent":5}`)
	require.Equal(t, want, low())
	h.spend(t, "ada", 4)
	want = append(want, `credits.exhausted ada {"available":0,"granted":100}`)
	require.Equal(t, want, low())

	h.grant(t, "ada", "purchased", 10, time.Time{}, in(365*day)) // 10 of 110: above 5 %, below 20 %
	require.Equal(t, want, low(), "added credit is no fall")
	h.spend(t, "ada", 7)
	want = append(want, `credits.low ada {"available":3,"granted":110,"percent":5}`)
	require.Equal(t, want, low(), "5 % was armed again, 20 % was not")
	h.grant(t, "ada", "purchased", 87, time.Time{}, in(365*day))
	require.Equal(t, want, low())
	h.spend(t, "ada", 90)
	want = append(want, `credits.low ada {"available":0,"granted":197,"percent":20}`,
		`credits.low ada {"available":0,"granted":197,"percent":5}`, `credits.exhausted ada {"available":0,"granted":197}`)
	require.ElementsMatch(t, want, low(), "a fall past several thresholds is told for each")
	h.requireDense(t)
}

func TestRisingShareWithoutNewCreditArmsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{LowPercent: []int{20}})
	h.produce(t)
	h.account(t, "ada")
	h.grant(t, "ada", "monthly", 100, time.Time{}, time.Time{}) // never end: no longer counted once used up
	h.grant(t, "ada", "purchased", 10, time.Time{}, time.Time{})
	h.spend(t, "ada", 95)
	want := []string{`credits.low ada {"available":15,"granted":110,"percent":20}`}
	require.Equal(t, want, h.told(t, events.TypeLow))
	h.spend(t, "ada", 6) // 9 of 10 is a large share
	require.Equal(t, want, h.told(t, events.TypeLow))
	h.spend(t, "ada", 8) // 1 of 10
	require.Equal(t, want, h.told(t, events.TypeLow))
	h.requireDense(t)
}

func TestGrantsAndLapsesAreTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	h.produce(t)
	h.account(t, "ada")
	soon := in(1500 * time.Millisecond)
	begins, ends := in(30*day), in(60*day)
	h.grant(t, "ada", "promo", 3, time.Time{}, soon)
	h.grant(t, "ada", "monthly", 10, begins, ends)
	h.spend(t, "ada", 1)
	require.Eventually(t, func() bool { // a request, or the sweeper, lapses what is over
		_, err := h.engine.Balance(t.Context(), "ada")
		require.NoError(t, err)
		return len(h.told(t, events.TypeLapsed)) == 1
	}, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, []string{`credits.lapsed ada {"bucket":"promo","credits":2}`}, h.told(t, events.TypeLapsed))
	granted := h.told(t, events.TypeGranted)
	require.Len(t, granted, 2)
	require.Equal(t, `credits.granted ada {"bucket":"monthly","credits":10,"effective_at":"`+stamped(begins)+
		`","expires_at":"`+stamped(ends)+`","unlimited":false}`, granted[1])
	require.Equal(t, []string{`credits.exhausted ada {"available":0,"granted":0}`}, h.told(t, events.TypeExhausted),
		"what begins later does not count")
}

func TestAccountThatNeverHadCreditIsNotExhausted(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{LowPercent: []int{20}})
	h.produce(t)
	h.account(t, "ada")
	h.grant(t, "ada", "monthly", 10, in(30*day), in(60*day))
	require.Empty(t, h.told(t, events.TypeLow, events.TypeExhausted))
}

func TestExpiringOnlyWhatWouldLapse(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{ExpiringDays: 14})
	h.produce(t)
	h.account(t, "ada", "bob", "eve")
	soon, later, far := in(10*day), in(20*day), in(300*day)
	h.grant(t, "ada", "promo", 3, time.Time{}, soon)
	h.spend(t, "ada", 1)
	h.grant(t, "ada", "monthly", 7, time.Time{}, later)
	moved := h.grant(t, "bob", "purchased", 5, time.Time{}, far)
	h.grant(t, "bob", "promo", 2, time.Time{}, later)
	h.spend(t, "bob", 2) // promo is drawn first: nothing of it would lapse
	h.grant(t, "eve", "purchased", 1, time.Time{}, time.Time{})
	h.grant(t, "eve", "monthly", 9, in(5*day), later)
	first := `credits.expiring ada {"bucket":"promo","credits":3,"expires_at":"` + stamped(soon) + `"}`
	second := `credits.expiring ada {"bucket":"promo","credits":2,"expires_at":"` + stamped(soon) + `"}`
	require.Len(t, h.told(t, events.TypeExpiring), 1)
	require.Contains(t, []string{first, second}, h.told(t, events.TypeExpiring)[0])

	h.clock.Set(7 * day)
	want := []string{
		`credits.expiring ada {"bucket":"monthly","credits":7,"expires_at":"` + stamped(later) + `"}`,
		`credits.expiring eve {"bucket":"monthly","credits":9,"expires_at":"` + stamped(later) + `"}`,
	}
	require.Eventually(t, func() bool { return len(h.told(t, events.TypeExpiring)) == 3 }, 10*time.Second, 10*time.Millisecond)
	require.ElementsMatch(t, want, h.told(t, events.TypeExpiring)[1:])

	_, err := h.admin.MoveExpiry(t.Context(), persist.ExpiryChange{
		Account: "bob", GrantID: moved, ExpiresAt: soon, Ref: "sooner",
	})
	require.NoError(t, err)
	require.Equal(t, `credits.expiring bob {"bucket":"purchased","credits":5,"expires_at":"`+stamped(soon)+`"}`,
		h.told(t, events.TypeExpiring)[3], "an end that was moved near is told")
	h.requireDense(t)
}

func TestGrantThatBeginsInsideItsNotice(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{ExpiringDays: 14})
	h.produce(t)
	h.account(t, "ada")
	begins, ends := in(5*day), in(8*day)
	h.grant(t, "ada", "monthly", 10, begins, ends)
	require.Empty(t, h.told(t, events.TypeExpiring), "it has not begun")
	h.clock.Set(6 * day)
	require.Eventually(t, func() bool { return len(h.told(t, events.TypeExpiring)) == 1 }, 10*time.Second, 10*time.Millisecond)
}

func TestReplacedPolicyCountsFromThen(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	h.produce(t)
	h.account(t, "ada", "bob")
	h.grant(t, "ada", "purchased", 100, time.Time{}, in(10*day))
	h.grant(t, "bob", "purchased", 100, time.Time{}, in(10*day))
	h.spend(t, "ada", 85)
	require.Empty(t, h.told(t, events.TypeExpiring, events.TypeLow), "nobody asked to be told")

	h.rules.Replace(catalog(studio(policy.Notices{ExpiringDays: 14, LowPercent: []int{50}})))
	require.Eventually(t, func() bool { return len(h.told(t, events.TypeExpiring)) == 2 }, 10*time.Second, 10*time.Millisecond)
	h.spend(t, "ada", 1)
	require.Equal(t, []string{`credits.low ada {"available":14,"granted":100,"percent":50}`}, h.told(t, events.TypeLow))

	h.rules.Replace(catalog(studio(policy.Notices{ExpiringDays: 2})))
	h.spend(t, "bob", 90)
	h.grant(t, "bob", "purchased", 4, time.Time{}, in(5*day))
	require.Len(t, h.told(t, events.TypeExpiring, events.TypeLow), 3, "fewer days, no thresholds")
	h.clock.Set(4 * day)
	require.Eventually(t, func() bool { return len(h.told(t, events.TypeExpiring)) == 3 }, 10*time.Second, 10*time.Millisecond)
	h.rules.Replace(nil)
	h.grant(t, "bob", "purchased", 4, time.Time{}, in(5*day))
	require.Len(t, h.told(t, events.TypeGranted), 4, "what needs no policy is told without one")
}

func TestPromotionEndingSumsItsGrants(t *testing.T) {
	t.Parallel()
	ends := in(20 * day)
	launch := &policy.Promotion{Name: "launch", Bucket: "promo", Starts: in(-day), Ends: ends}
	h := newHouse(t, policy.Notices{PromotionEnding: 3}, launch)
	h.produce(t)
	h.account(t, "ada", "bob", "eve")
	h.grant(t, "ada", "promo", 5, time.Time{}, ends)
	h.grant(t, "ada", "promo", 6, time.Time{}, ends)
	h.grant(t, "ada", "promo", 7, time.Time{}, in(19*day)) // another bonus
	h.grant(t, "ada", "monthly", 8, time.Time{}, ends)
	h.grant(t, "bob", "promo", 2, time.Time{}, ends)
	h.spend(t, "bob", 2)
	require.Empty(t, h.told(t, events.TypePromotionEnding))
	h.clock.Set(18 * day)
	want := []string{`promotion.ending ada {"bucket":"promo","credits":11,"ends_at":"` + stamped(ends) + `","promotion":"launch"}`}
	require.Eventually(t, func() bool { return len(h.told(t, events.TypePromotionEnding)) > 0 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, want, h.told(t, events.TypePromotionEnding))
	h.grant(t, "eve", "promo", 1, time.Time{}, ends) // who joins late is told at once
	require.Len(t, h.told(t, events.TypePromotionEnding), 2)
	h.requireDense(t)
}

func TestFairUseIsWarnedOfOncePerGrant(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{FairUsePercent: []int{80, 100}, LowPercent: []int{50}})
	h.produce(t)
	h.account(t, "ada")
	ends := in(20 * day)
	_, err := h.admin.Grant(t.Context(), persist.NewGrant{
		Account: "ada", Bucket: "monthly", Rank: 1, Credits: 100 * meter.Credit, ExpiresAt: ends, Ref: "cap",
		Unlimited: true, Stops: true,
	})
	require.NoError(t, err)
	h.spend(t, "ada", 79)
	require.Empty(t, h.told(t, events.TypeFairUse))
	h.spend(t, "ada", 1)
	want := []string{`fair_use.warning ada {"bucket":"monthly","cap":100,"percent":80,"resets_at":"` + stamped(ends) + `","used":80}`}
	require.Equal(t, want, h.told(t, events.TypeFairUse))
	h.spend(t, "ada", 10)
	require.Equal(t, want, h.told(t, events.TypeFairUse))
	h.spend(t, "ada", 10)
	require.Len(t, h.told(t, events.TypeFairUse), 2)
	require.Empty(t, h.told(t, events.TypeLow, events.TypeExhausted), "unlimited is never low")
	require.Contains(t, h.told(t, events.TypeGranted)[0], `"unlimited":true`)
}

// A cap may be of several grants: they are used as one, and the least one, which only stops others, is no cap by itself.
func TestFairUseCountsTheGrantsOfACapTogether(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{FairUsePercent: []int{80, 100}})
	h.produce(t)
	h.account(t, "ada")
	ends := in(20 * day)
	for i, credits := range []meter.Credits{policy.LeastCap, 100*meter.Credit - policy.LeastCap} {
		_, err := h.admin.Grant(t.Context(), persist.NewGrant{
			Account: "ada", Bucket: "monthly", Rank: 1, Credits: credits, ExpiresAt: ends, Ref: fmt.Sprint("cap-", i),
			Unlimited: true,
		})
		require.NoError(t, err)
		if i == 0 {
			h.grant(t, "ada", "purchased", 1, time.Time{}, time.Time{})
			h.spend(t, "ada", 1)
			require.Empty(t, h.told(t, events.TypeFairUse))
		}
	}
	h.spend(t, "ada", 70)
	require.Empty(t, h.told(t, events.TypeFairUse))
	h.spend(t, "ada", 11)
	told := h.told(t, events.TypeFairUse)
	require.Len(t, told, 1)
	require.Contains(t, told[0], `"cap":100,"percent":80`)
}

// A cap that was used up when its plan ended it hides nothing any more, though Redis had forgotten it by then.
func TestAUsedUpCapThatEndedHidesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	p := studio(policy.Notices{LowPercent: []int{50}})
	p.Cycle = &policy.Cycle{}
	p.Plans = []*policy.Plan{{Name: "premium", Contingents: []policy.Contingent{{
		Bucket: "monthly", Rank: 1, Amount: policy.FixedAmount(10 * meter.Credit), Unlimited: true,
	}}}}
	h.rules.Replace(catalog(p))
	h.produce(t)
	h.account(t, "ada")
	_, err := h.admin.PutSubscription(t.Context(), persist.SubscriptionChange{Account: "ada", Plan: "premium"})
	require.NoError(t, err)
	h.spend(t, "ada", 10)
	h.grant(t, "ada", "purchased", 10, time.Time{}, time.Time{})
	require.Empty(t, h.told(t, events.TypeLow))
	_, err = h.admin.EndSubscription(t.Context(), persist.SubscriptionEnd{Account: "ada", AtOnce: true})
	require.NoError(t, err)
	h.spend(t, "ada", 6)
	require.Equal(t, []string{`credits.low ada {"available":4,"granted":10,"percent":50}`}, h.told(t, events.TypeLow))
}
