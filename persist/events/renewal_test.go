package events_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/events"
)

const studioPolicy = `
name: studio
timezone: UTC
buckets: [promo, monthly, purchased]
cycle: {anchor: subscription_start}
plans:
  plus: {monthly: {credits: slots * 10}, promo: {credits: 1}}
operations:
  apply: {match: POST /apply, credits: 1}
`

func TestEachCycleAfterTheFirstIsARenewal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	p, err := policy.Parse("studio.yaml", []byte(studioPolicy))
	require.NoError(t, err)
	h.rules.Replace(catalog(p))
	stop := h.produce(t)
	h.account(t, "ada")
	slots := uint32(3)
	s, err := h.admin.PutSubscription(t.Context(), persist.SubscriptionChange{Account: "ada", Plan: "plus", Slots: &slots})
	require.NoError(t, err)
	require.True(t, s.Applied)
	granted := h.told(t, events.TypeGranted)
	require.GreaterOrEqual(t, len(granted), 4, "two buckets, a cycle ahead")
	require.Empty(t, h.told(t, events.TypeRenewed), "a beginning is no renewal")

	slots = 4 // at once, in the middle of the cycle; what was to come is superseded
	_, err = h.admin.PutSubscription(t.Context(), persist.SubscriptionChange{Account: "ada", Plan: "plus", Slots: &slots})
	require.NoError(t, err)
	require.Empty(t, h.told(t, events.TypeRenewed))

	h.clock.Set(time.Until(s.Cycle.To) + time.Minute)
	require.Eventually(t, func() bool { return len(h.told(t, events.TypeRenewed)) > 0 }, 10*time.Second, 10*time.Millisecond)
	stop()
	h.produce(t)
	told := h.told(t, events.TypeRenewed)
	require.Len(t, told, 1)
	page, err := h.feed.Events(t.Context(), events.Query{Limit: 100, Types: []string{events.TypeRenewed}})
	require.NoError(t, err)
	require.True(t, page.Events[0].At.Equal(s.Cycle.To), "it is told as of when it happened")
	require.Contains(t, told[0], `"plan":"plus","slots":4`)
	require.Contains(t, told[0], `"bucket":"monthly","credits":40,`)
	require.Contains(t, told[0], `"bucket":"promo","credits":1,`)
	require.Contains(t, told[0], `"starts_at":"`+stamped(s.Cycle.To.UTC())+`"`)
	require.NotContains(t, told[0], `"credits":30`)
	h.requireDense(t)
}

const twoPromotions = `
name: studio
timezone: UTC
buckets: [promo, monthly, purchased]
cycle: {anchor: subscription_start}
events: {promotion_ending_days: 3}
plans:
  plus: {promo: launch, monthly: {credits: 1}}
  pro:  {promo: welcome, monthly: {credits: 1}}
  both: {promo: [launch, welcome], monthly: {credits: 1}}
promotions:
  launch:  {bucket: promo, starts: YESTERDAY, lasts: 2w, credits: slots * 10, per: window}
  welcome: {bucket: promo, starts: YESTERDAY, lasts: 2w, credits: slots * 3, per: window}
operations:
  apply: {match: POST /apply, credits: 1}
`

// Two promotions may share their bucket and their end: each account is told of that which gave it its credit.
func TestPromotionEndingNamesWhatGaveTheCredit(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	yesterday := time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	p, err := policy.Parse("studio.yaml", []byte(strings.ReplaceAll(twoPromotions, "YESTERDAY", yesterday)))
	require.NoError(t, err)
	h.rules.Replace(catalog(p))
	h.produce(t)
	slots, ends := uint32(2), p.Promotions[0].Ends
	for name, plan := range map[string]string{"ada": "plus", "bob": "pro", "eve": "both"} {
		h.account(t, name)
		_, err := h.admin.PutSubscription(t.Context(), persist.SubscriptionChange{Account: name, Plan: plan, Slots: &slots})
		require.NoError(t, err)
	}
	h.grant(t, "bob", "promo", 5, time.Time{}, ends) // by a person: it may belong to either
	h.spend(t, "ada", 1)
	h.clock.Set(time.Until(ends) - day)
	require.Eventually(t, func() bool { return len(h.told(t, events.TypePromotionEnding)) >= 4 }, 10*time.Second, 10*time.Millisecond)
	says := func(account, promotion string, credits int) string {
		return fmt.Sprintf(`promotion.ending %s {"bucket":"promo","credits":%d,"ends_at":"%s","promotion":"%s"}`,
			account, credits, stamped(ends.UTC()), promotion)
	}
	require.ElementsMatch(t, []string{
		says("ada", "launch", 19), says("bob", "welcome", 6), says("eve", "launch", 20), says("eve", "welcome", 6),
	}, h.told(t, events.TypePromotionEnding))
	h.requireDense(t)
}
