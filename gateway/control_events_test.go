package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/gateway/webhook"
)

// notices plays the feed and the webhooks of package persist, from memory.
type notices struct {
	mu       sync.Mutex
	events   []webhook.Event
	asked    []gateway.EventQuery
	webhooks map[string]gateway.NewWebhook
	err      error
}

func (n *notices) tell(e webhook.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e.ID, e.Data = int64(len(n.events)+1), []byte(`{"credits":2.5}`)
	n.events = append(n.events, e)
}

func (n *notices) Events(_ context.Context, q gateway.EventQuery) (p gateway.EventPage, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, q)
	p.Next = max(q.After, int64(len(n.events)))
	for _, e := range n.events {
		match := (len(q.Types) == 0 || slices.Contains(q.Types, e.Type)) && (q.Account == "" || q.Account == e.Account)
		if e.ID > q.After && match && len(p.Events) < q.Limit {
			p.Events = append(p.Events, e)
		}
	}
	return p, n.err
}

func (n *notices) EventTypes() []string { return []string{"credits.low", "credits.lapsed"} }

func (n *notices) waits() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.asked)
}

func (n *notices) PutWebhook(_ context.Context, w gateway.NewWebhook) (gateway.WebhookState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return gateway.WebhookState{}, n.err
	}
	_, known := n.webhooks[w.Name]
	n.webhooks[w.Name] = w
	return gateway.WebhookState{Name: w.Name, URL: w.URL, Types: w.Types, Created: !known}, nil
}

func (n *notices) Webhook(_ context.Context, name string) (gateway.WebhookState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w, ok := n.webhooks[name]
	if !ok {
		return gateway.WebhookState{}, gateway.ErrUnknown
	}
	at := time.UnixMilli(1_790_000_000_000)
	return gateway.WebhookState{
		Name: name, URL: w.URL, Types: w.Types, CreatedAt: at, FailingSince: at, LastError: "answered 500",
		DisabledAt: at, DisabledReason: "nothing but failures", Pending: 3, Failed: 1,
	}, nil
}

func (n *notices) Webhooks(context.Context) ([]gateway.WebhookState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []gateway.WebhookState{}
	for _, w := range n.webhooks {
		out = append(out, gateway.WebhookState{Name: w.Name, URL: w.URL})
	}
	return out, n.err
}

func (n *notices) DeleteWebhook(_ context.Context, name, _ string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.webhooks, name)
	return n.err
}

func (n *notices) Redeliver(_ context.Context, name string, after int64) (queued, next int64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.webhooks[name]; !ok {
		return 0, 0, gateway.ErrUnknown
	}
	return int64(len(n.events)) - after, int64(len(n.events)), nil
}

func (n *notices) CheckURL(url string) error {
	if !strings.HasPrefix(url, "https://") {
		return errors.New("url must begin with https://")
	}
	return nil
}

func TestEventsAreRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.control(http.MethodGet, "/v1/events", "")
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.JSONEq(t, `{"events":[],"next_after":0}`, string(r.body))

	b.notices.tell(webhook.Event{Type: "credits.low", Account: "ada", Product: "studio", At: "2026-03-01T00:00:00.000Z"})
	b.notices.tell(webhook.Event{Type: "credits.lapsed", Account: "bob", Product: "studio", At: "2026-03-02T00:00:00.000Z"})
	r = b.control(http.MethodGet, "/v1/events?type=credits.low,credits.low&account=ada&limit=5", "")
	require.JSONEq(t, `{"events":[{"id":1,"type":"credits.low","account":"ada","product":"studio",
		"at":"2026-03-01T00:00:00.000Z","data":{"credits":2.5}}],"next_after":2}`, string(r.body))
	r = b.control(http.MethodGet, "/v1/events?after=2", "")
	require.JSONEq(t, `{"events":[],"next_after":2}`, string(r.body))

	b.notices.mu.Lock()
	b.notices.err = errors.New("away")
	b.notices.mu.Unlock()
	require.Equal(t, http.StatusServiceUnavailable, b.control(http.MethodGet, "/v1/events", "").StatusCode)
	require.Equal(t, http.StatusUnauthorized, b.do(http.MethodGet, b.admin+"/v1/events", "", "").StatusCode)
}

func TestEventsAreWaitedFor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var reading sync.WaitGroup
	answers := make([]*reply, 2)
	for i, query := range []string{"?wait=30", "?wait=30s&type=credits.lapsed"} {
		reading.Go(func() { answers[i], _ = b.try(http.MethodGet, b.admin+"/v1/events"+query, adminToken, "") })
	}
	require.Eventually(t, func() bool { return b.notices.waits() >= 2 }, 10*time.Second, time.Millisecond)
	b.notices.tell(webhook.Event{Type: "credits.low", Account: "ada"})
	b.notices.tell(webhook.Event{Type: "credits.lapsed", Account: "ada"})
	reading.Wait()
	require.Len(t, answers[1].json(t)["events"], 1)
	require.NotEmpty(t, answers[0].json(t)["events"])
}

func TestShutdownDoesNotWaitForEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var reading sync.WaitGroup
	var answer *reply
	reading.Go(func() { answer, _ = b.try(http.MethodGet, b.admin+"/v1/events?wait=30", adminToken, "") })
	require.Eventually(t, func() bool { return b.notices.waits() >= 1 }, 10*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, b.gateway.Shutdown(ctx), "it must not last as long as the wait")
	reading.Wait()
	require.NotNil(t, answer)
	require.Equal(t, http.StatusOK, answer.StatusCode)
}

func TestBadEventQueries(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for query, param := range map[string]string{
		"after=-1": "after", "after=x": "after", "limit=0": "limit", "limit=1001": "limit", "limit=9999999999999999999": "limit",
		"type=credits.lo": "type", "type=": "type", "account=a/b": "account", "wait=31": "wait", "wait=-1": "wait",
		"wait=1m": "wait", "until=3": "until", "after=1&after=2": "after",
	} {
		r := b.control(http.MethodGet, "/v1/events?"+query, "")
		require.Equal(t, http.StatusBadRequest, r.StatusCode, query)
		require.Equal(t, param, r.json(t)["error"].(map[string]any)["param"], query)
	}
	require.Equal(t, http.StatusBadRequest, b.control(http.MethodGet, "/v1/events?%zz", "").StatusCode)
	require.Zero(t, b.notices.waits())
}

func TestWebhooksAreSetUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	put := func(body string) *reply { t.Helper(); return b.control(http.MethodPut, "/v1/webhooks/billing", body) }
	r := put(`{"url":"https://example.com/hook","types":["credits.low"]}`)
	require.Equal(t, http.StatusCreated, r.StatusCode)
	secret := r.json(t)["secret"].(string)
	require.NoError(t, webhook.CheckSecret(secret))
	require.Equal(t, secret, b.notices.webhooks["billing"].Fresh)
	require.Equal(t, "enabled", r.json(t)["state"])

	r = put(`{"url":"https://example.com/hook"}`)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.NotContains(t, r.json(t), "secret", "it is shown once")
	given := webhook.NewSecret()
	r = put(`{"url":"https://example.com/hook","secret":"` + given + `"}`)
	require.NotContains(t, string(r.body), given)
	require.Equal(t, given, b.notices.webhooks["billing"].Secret)

	require.JSONEq(t, `{"name":"billing","url":"https://example.com/hook","types":[],"state":"disabled",
		"disabled_at":"2026-09-21T14:13:20.000Z","disabled_reason":"nothing but failures",
		"failing_since":"2026-09-21T14:13:20.000Z","last_error":"answered 500","pending":3,"failed":1,
		"created_at":"2026-09-21T14:13:20.000Z"}`, string(b.control(http.MethodGet, "/v1/webhooks/billing", "").body))
	require.Len(t, b.control(http.MethodGet, "/v1/webhooks", "").json(t)["webhooks"], 1)
	require.JSONEq(t, `{"queued":0,"next_after":0}`,
		string(b.control(http.MethodPost, "/v1/webhooks/billing/redeliver", `{"after":0}`).body))
	require.Equal(t, http.StatusNoContent, b.control(http.MethodDelete, "/v1/webhooks/billing", "").StatusCode)
	require.Equal(t, http.StatusNotFound, b.control(http.MethodGet, "/v1/webhooks/billing", "").StatusCode)
	require.Equal(t, http.StatusNotFound,
		b.control(http.MethodPost, "/v1/webhooks/billing/redeliver", `{"after":0}`).StatusCode)
}

func TestBadWebhooksAreRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for body, param := range map[string]string{
		`{}`:                          "url",
		`{"url":"ftp://example.com"}`: "url",
		`{"url":"https://example.com","secret":"hunter2"}`:        "secret",
		`{"url":"https://example.com","secret":"whsec_c2hvcnQ="}`: "secret",
		`{"url":"https://example.com","types":["credits.*"]}`:     "types",
		`{"url":3}`: "url",
	} {
		r := b.control(http.MethodPut, "/v1/webhooks/billing", body)
		require.Equal(t, http.StatusBadRequest, r.StatusCode, body)
		require.Equal(t, param, r.json(t)["error"].(map[string]any)["param"], body)
	}
	require.Equal(t, http.StatusBadRequest, b.control(http.MethodPut, "/v1/webhooks/b", `{"link":"x"}`).StatusCode)
	for _, body := range []string{`{}`, `{"after":-1}`, `{"after":"1"}`, `{"after":0,"limit":3}`} {
		r := b.control(http.MethodPost, "/v1/webhooks/billing/redeliver", body)
		require.Equal(t, http.StatusBadRequest, r.StatusCode, body)
	}
	require.Equal(t, http.StatusBadRequest, b.control(http.MethodPut, "/v1/webhooks/a%20b", `{}`).StatusCode)
	require.Empty(t, b.notices.webhooks)
	b.notices.err = gateway.ErrTooMany
	require.Equal(t, http.StatusConflict,
		b.control(http.MethodPut, "/v1/webhooks/billing", `{"url":"https://example.com"}`).StatusCode)
}
