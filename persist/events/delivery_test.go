package events_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
	"creditgate/persist/events"
)

func (h *house) endpoint(t *testing.T, name string, types ...string) events.Endpoint {
	t.Helper()
	e, err := h.feed.PutEndpoint(t.Context(), events.NewEndpoint{
		Name: name, URL: "https://example.com/" + name, Fresh: "whsec_" + name, Types: types, Actor: "tests",
	})
	require.NoError(t, err)
	return e
}

func (h *house) claim(t *testing.T, name string) []events.Delivery {
	t.Helper()
	out, err := h.feed.Claim(t.Context(), name, 100, time.Minute)
	require.NoError(t, err)
	return out
}

// happen makes n events of type credits.granted.
func (h *house) happen(t *testing.T, account string, n int) {
	t.Helper()
	for range n {
		h.grant(t, account, "promo", 1, time.Time{}, in(365*day))
	}
	h.settled(t)
}

func TestEventsAreQueuedForThoseWhoWantThem(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{LowPercent: []int{50}})
	h.produce(t)
	h.account(t, "ada")
	h.happen(t, "ada", 1)
	require.True(t, h.endpoint(t, "all").Created)
	h.endpoint(t, "low", events.TypeLow)
	h.happen(t, "ada", 2)
	h.spend(t, "ada", 2)
	h.settled(t)

	due, err := h.feed.Due(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"all", "low"}, due)
	all := h.claim(t, "all")
	require.Len(t, all, 3, "what happened before it was set up is not posted")
	require.Equal(t, "https://example.com/all", all[0].URL)
	require.Equal(t, []string{"whsec_all"}, all[0].Secrets)
	require.Equal(t, 1, all[0].Attempt)
	low := h.claim(t, "low")
	require.Len(t, low, 1)
	require.Equal(t, events.TypeLow, low[0].Event.Type)
	require.Empty(t, h.claim(t, "low"), "it is under way")
	for _, d := range append(all, low...) {
		require.NoError(t, h.feed.Delivered(t.Context(), d.Webhook, d.Event.ID))
	}
	due, err = h.feed.Due(t.Context())
	require.NoError(t, err)
	require.Empty(t, due)

	queued, next, err := h.feed.Redeliver(t.Context(), "low", 0)
	require.NoError(t, err)
	require.Equal(t, [2]int64{1, 4}, [2]int64{queued, next})
	queued, _, err = h.feed.Redeliver(t.Context(), "all", 1)
	require.NoError(t, err)
	require.Equal(t, int64(3), queued)
	require.Equal(t, int64(2), h.claim(t, "all")[0].Event.ID)
	_, _, err = h.feed.Redeliver(t.Context(), "nobody", 0)
	require.ErrorIs(t, err, events.ErrNoEndpoint)
}

func TestGatewaysShareAQueue(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	h.produce(t)
	h.account(t, "ada")
	h.endpoint(t, "hook")
	h.happen(t, "ada", 40)
	var mu sync.Mutex
	taken := map[int64]int{}
	var claiming sync.WaitGroup
	for range 8 {
		claiming.Go(func() {
			for {
				got, err := h.feed.Claim(t.Context(), "hook", 3, time.Minute)
				if err != nil || len(got) == 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				for _, d := range got {
					taken[d.Event.ID]++
				}
				mu.Unlock()
			}
		})
	}
	claiming.Wait()
	require.LessOrEqual(t, len(taken), 40)
	for id, n := range taken {
		require.Equal(t, 1, n, "event %d was handed to two gateways", id)
	}
	h.query(t, `UPDATE creditgate.webhook_delivery SET next_at = now() RETURNING 1`) // every lease is over
	again := h.claim(t, "hook")
	require.Len(t, again, 40, "what was not settled is handed out again")
	require.Equal(t, 2, again[0].Attempt)
}

func TestFailuresBackOffAndEnd(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	h.produce(t)
	h.account(t, "ada")
	h.endpoint(t, "hook")
	h.happen(t, "ada", 1)
	pauses := []float64{}
	for attempt := 1; attempt <= 10; attempt++ {
		got := h.claim(t, "hook")
		require.Len(t, got, 1, "attempt %d", attempt)
		require.Equal(t, attempt, got[0].Attempt)
		require.NoError(t, h.feed.Failed(t.Context(), "hook", got[0].Event.ID, attempt, "answered 500", false))
		if attempt < 10 {
			require.Empty(t, h.claim(t, "hook"))
			row := h.query(t, `SELECT extract(epoch FROM next_at - now())::float8 FROM creditgate.webhook_delivery`)
			pauses = append(pauses, row[0][0].(float64))
			h.query(t, `UPDATE creditgate.webhook_delivery SET next_at = now() RETURNING 1`)
		}
	}
	for i, seconds := range []float64{5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400} {
		require.InDelta(t, seconds, pauses[i], seconds*0.1+5)
	}
	e, err := h.feed.Endpoint(t.Context(), "hook")
	require.NoError(t, err)
	require.Equal(t, [2]int64{0, 1}, [2]int64{e.Pending, e.Failed}, "given up")
	require.Equal(t, "answered 500", e.LastError)
	require.False(t, e.FailingSince.IsZero())
	require.True(t, e.DisabledAt.IsZero(), "it has not failed for long")

	queued, _, err := h.feed.Redeliver(t.Context(), "hook", 0)
	require.NoError(t, err)
	require.Equal(t, int64(1), queued)
	got := h.claim(t, "hook")
	require.Equal(t, 1, got[0].Attempt)
	require.NoError(t, h.feed.Failed(t.Context(), "hook", got[0].Event.ID, 7, strings.Repeat("x", 500), false))
	require.Empty(t, h.claim(t, "hook"), "an attempt that somebody else took over says nothing about the next one")
	require.NoError(t, h.feed.Delivered(t.Context(), "hook", got[0].Event.ID))
	e, err = h.feed.Endpoint(t.Context(), "hook")
	require.NoError(t, err)
	require.True(t, e.FailingSince.IsZero())
	require.Empty(t, e.LastError)
}

func TestDeadWebhookIsDisabledAndCanBeRevived(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]bool{"nothing but failures": false, "answered 410": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, policy.Notices{})
			h.produce(t)
			h.account(t, "ada")
			h.endpoint(t, "hook")
			h.happen(t, "ada", 2)
			got := h.claim(t, "hook")
			require.NoError(t, h.feed.Failed(t.Context(), "hook", got[0].Event.ID, 1, "answered 500", false))
			if !gone {
				h.query(t, `UPDATE creditgate.webhook SET failing_since = now() - interval '5 days' RETURNING 1`)
			}
			require.NoError(t, h.feed.Failed(t.Context(), "hook", got[1].Event.ID, 1, "answered", gone))
			e, err := h.feed.Endpoint(t.Context(), "hook")
			require.NoError(t, err)
			require.False(t, e.DisabledAt.IsZero())
			require.Contains(t, e.DisabledReason, map[bool]string{false: "nothing but failures since 20", true: "410"}[gone])
			h.query(t, `UPDATE creditgate.webhook_delivery SET next_at = now() RETURNING 1`)
			h.happen(t, "ada", 1)
			require.Empty(t, h.claim(t, "hook"))
			due, err := h.feed.Due(t.Context())
			require.NoError(t, err)
			require.Empty(t, due)

			revived := h.endpoint(t, "hook")
			require.False(t, revived.Created)
			require.True(t, revived.DisabledAt.IsZero())
			require.Len(t, h.claim(t, "hook"), 2, "what waited is posted; what happened meanwhile needs redelivery")
			queued, _, err := h.feed.Redeliver(t.Context(), "hook", 2)
			require.NoError(t, err)
			require.Equal(t, int64(1), queued)
		})
	}
}

func TestSecretsChangeOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	h.produce(t)
	h.account(t, "ada")
	h.endpoint(t, "hook")
	put := func(secret string) {
		t.Helper()
		_, err := h.feed.PutEndpoint(t.Context(), events.NewEndpoint{
			Name: "hook", URL: "https://example.com/hook", Secret: secret, Fresh: "whsec_unused",
		})
		require.NoError(t, err)
	}
	secrets := func() []string {
		t.Helper()
		_, _, err := h.feed.Redeliver(t.Context(), "hook", 0)
		require.NoError(t, err)
		return h.claim(t, "hook")[0].Secrets
	}
	h.happen(t, "ada", 1)
	put("")
	require.Equal(t, []string{"whsec_hook"}, secrets(), "one without a secret keeps it")
	put("whsec_next")
	put("whsec_next")
	require.Equal(t, []string{"whsec_next", "whsec_hook"}, secrets())
	h.query(t, `UPDATE creditgate.webhook SET old_secret_until = now() RETURNING 1`)
	require.Equal(t, []string{"whsec_next"}, secrets())
}

func TestThirtyTwoWebhooksAreTheMost(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	var putting sync.WaitGroup
	errs := make([]error, events.EndpointsMax+3)
	for i := range errs {
		putting.Go(func() {
			_, errs[i] = h.feed.PutEndpoint(t.Context(), events.NewEndpoint{
				Name: fmt.Sprintf("hook%d", i), URL: "https://example.com", Fresh: "whsec_x",
			})
		})
	}
	putting.Wait()
	refused := 0
	for _, err := range errs {
		if err != nil {
			require.ErrorIs(t, err, events.ErrTooManyEndpoints)
			refused++
		}
	}
	require.Equal(t, 3, refused)
	all, err := h.feed.Endpoints(t.Context())
	require.NoError(t, err)
	require.Len(t, all, events.EndpointsMax)
	h.endpoint(t, all[0].Name)
	require.NoError(t, h.feed.DeleteEndpoint(t.Context(), all[0].Name, "ops"))
	_, err = h.feed.Endpoint(t.Context(), all[0].Name)
	require.ErrorIs(t, err, events.ErrNoEndpoint)
	h.endpoint(t, "another")
}

func TestOldEventsGo(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{ExpiringDays: 14})
	stop := h.produce(t)
	h.account(t, "ada")
	h.endpoint(t, "hook")
	h.grant(t, "ada", "promo", 1, time.Time{}, in(10*day)) // granted, expiring
	require.Len(t, h.told(t, events.TypeExpiring), 1)
	h.happen(t, "ada", 2)
	stop()
	h.query(t, `UPDATE creditgate.event SET recorded_at = now() - interval '91 days' WHERE id <= 3 RETURNING 1`)
	h.produce(t)
	require.Eventually(t, func() bool {
		return h.query(t, `SELECT dropped FROM creditgate.event_head`)[0][0].(int64) == 3
	}, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, [][]any{{int64(2)}}, h.query(t, `SELECT count(*) FROM creditgate.event`),
		"the notice of a grant that has not ended stays, or it would be made again")
	page, err := h.feed.Events(t.Context(), events.Query{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Events, 1)
	require.Equal(t, int64(4), page.Events[0].ID)
	page, err = h.feed.Events(t.Context(), events.Query{After: 1, Limit: 10, Types: []string{events.TypeExpiring}})
	require.NoError(t, err)
	require.Equal(t, int64(4), page.Next)
	require.Empty(t, page.Events)
	require.Len(t, h.claim(t, "hook"), 2, "an event's deliveries go with it")
}
