package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

type told struct {
	ID      int64           `json:"id"`
	Type    string          `json:"type"`
	Account string          `json:"account"`
	Data    json.RawMessage `json:"data"`
}

type feed struct {
	Events    []told `json:"events"`
	NextAfter int64  `json:"next_after"`
}

func (g *gateway) feed(t *testing.T, query string) (f feed) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(g.must(t, "GET", "/v1/events"+query, "")), &f))
	return f
}

// receiver takes events as a consumer does: it verifies, and keeps what came by id.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex
	secret string
	down   bool
	calls  int
	bad    []string
	got    map[int64]int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{got: map[int64]int{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calls++
		if r.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		v, badSecret := standardwebhooks.NewWebhook(r.secret)
		var e told
		if err != nil || badSecret != nil || v.Verify(body, q.Header) != nil || json.Unmarshal(body, &e) != nil ||
			q.Header.Get("Webhook-Id") != strconv.FormatInt(e.ID, 10) {
			r.bad = append(r.bad, string(body))
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.got[e.ID]++
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// has waits until so many different events came.
func (r *receiver) has(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.got) == n
	}, patience, 10*time.Millisecond, "not %d events", n)
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(t, r.bad, "a signature that does not verify")
}

func TestEventsReachTheirConsumers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	first := w.serve(t)
	second := w.serve(t, "CREDITGATE_JOURNAL_DIR="+w.journal+"-2")
	hook := newReceiver(t)
	body := fmt.Sprintf(`{"url":%q,"types":["credits.granted","credits.exhausted"]}`, hook.URL+"/events")
	var made struct {
		Secret string `json:"secret"`
	}
	require.NoError(t, json.Unmarshal([]byte(first.must(t, "PUT", "/v1/webhooks/billing", body)), &made))
	hook.mu.Lock()
	hook.secret = made.Secret
	hook.mu.Unlock()

	key := first.account(t, "ada", "promo", 2, "purchased", 1)
	hook.has(t, 2)
	waiting, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		second.admin+"/v1/events?after=2&wait=30&type=credits.exhausted", http.NoBody)
	require.NoError(t, err)
	waiting.Header.Set("Authorization", "Bearer "+adminToken)
	waited := make(chan feed, 1)
	go func() {
		var f feed
		if resp, err := http.DefaultClient.Do(waiting); err == nil {
			_ = json.NewDecoder(resp.Body).Decode(&f) // what did not come is missed below
			_ = resp.Body.Close()
		}
		waited <- f
	}()
	for range 3 {
		r, err := generate(t.Context(), http.DefaultClient, second.data, key)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.status)
	}
	exhausted := <-waited
	require.Len(t, exhausted.Events, 1)
	require.Equal(t, "ada", exhausted.Events[0].Account)
	hook.has(t, 3)

	hook.set(true)
	first.account(t, "bob", "promo", 1)
	require.Eventually(t, func() bool {
		hook.mu.Lock()
		defer hook.mu.Unlock()
		return hook.calls >= 4
	}, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		var seen struct {
			LastError string `json:"last_error"`
			Pending   int    `json:"pending"`
		}
		require.NoError(t, json.Unmarshal([]byte(second.must(t, "GET", "/v1/webhooks/billing", "")), &seen))
		return seen.LastError == "answered 503" && seen.Pending == 1
	}, patience, 10*time.Millisecond)
	first.kill() // whichever of them makes the events and posts them
	hook.set(false)
	hook.has(t, 4) // the second attempt is made after 5 s
	second.account(t, "eve", "promo", 1)
	hook.has(t, 5)

	all := second.feed(t, "")
	require.Equal(t, int64(len(all.Events)), all.NextAfter, "no gaps")
	require.Len(t, second.feed(t, "?type=credits.granted").Events, 4, "each grant is told once")
	second.must(t, "POST", "/v1/webhooks/billing/redeliver", `{"after":0}`)
	require.Eventually(t, func() bool {
		hook.mu.Lock()
		defer hook.mu.Unlock()
		twice := 0
		for _, n := range hook.got {
			if n >= 2 {
				twice++
			}
		}
		return twice == 5
	}, patience, 10*time.Millisecond, "redelivery posts them again")
	require.NotContains(t, second.text(), made.Secret, "the secret in the log")
	status, answer := second.ask(t, "PUT", "/v1/webhooks/inside", `{"url":"https://169.254.169.254/latest"}`)
	require.Equal(t, http.StatusBadRequest, status, answer)
	require.Equal(t, 0, second.interrupt(t, syscall.SIGTERM))
}
