package main_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// keyed sends a request with an Idempotency-Key.
func keyed(ctx context.Context, url, key, idempotencyKey string) (status int, header http.Header, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/images/generations",
		strings.NewReader(`{"prompt":"a red bicycle","n":1}`))
	if err != nil {
		return 0, nil, "", err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", idempotencyKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(b), err
}

// A gateway dies with a request in flight. Its repeat, at another gateway, is told what is left of the lease, and is
// served once that is over. While the first gateway lived, the other one said to ask again soon.
func TestRepeatAfterAKillIsToldWhatIsLeftOfTheLease(t *testing.T) {
	t.Parallel()
	asked, stuck := make(chan struct{}, 1), make(chan struct{})
	var seen atomic.Bool
	w := newWorld(t, func(*http.Request) {
		if seen.CompareAndSwap(false, true) { // the first request hangs
			asked <- struct{}{}
			<-stuck
		}
	})
	defer close(stuck)
	env := []string{"CREDITGATE_UPSTREAM_TIMEOUT=8s", "CREDITGATE_LEASE_MARGIN=2s"}
	const lease = 8*time.Second + 2*time.Second + 2*time.Second // with the settle budget
	victim, other := w.serve(t, env...), w.serve(t, append(env, "CREDITGATE_JOURNAL_DIR="+t.TempDir())...)
	key := victim.account(t, "patient", "purchased", 10)
	reserved := time.Now()
	go func() { _, _, _, _ = keyed(t.Context(), victim.data, key, "k") }()
	<-asked
	// repeat is what the other gateway says. It reports false once there is an answer.
	repeat := func() (retryAfter int, end time.Time, waits bool) {
		t.Helper()
		status, header, body, err := keyed(t.Context(), other.data, key, "k")
		require.NoError(t, err)
		if status == http.StatusOK {
			return 0, time.Time{}, false
		}
		require.Equal(t, http.StatusConflict, status, body)
		var p struct {
			Code string    `json:"code"`
			End  time.Time `json:"lease_expires_at"`
		}
		require.NoError(t, json.Unmarshal([]byte(body), &p))
		require.Equal(t, "request-in-progress", p.Code)
		retryAfter, err = strconv.Atoi(header.Get("Retry-After"))
		require.NoError(t, err)
		return retryAfter, p.End, true
	}
	soon, end, waits := repeat()
	require.True(t, waits)
	require.Equal(t, 1, soon, "it runs on the other gateway, and may end at any moment")
	require.WithinRange(t, end, reserved.Add(lease-time.Second), time.Now().Add(lease))

	victim.kill()
	const sweep = 2 * time.Second // to find the lease over, with the rounding
	told := 0
	require.Eventually(t, func() bool {
		asked := time.Now()
		after, end, waits := repeat()
		if !waits {
			return true
		}
		if after > 1 {
			told++
			require.WithinRange(t, asked.Add(time.Duration(after)*time.Second), end.Add(-time.Second), time.Now().Add(sweep+end.Sub(asked)))
		}
		return false
	}, patience, 200*time.Millisecond, "the repeat is served in the end")
	require.Positive(t, told, "what is left of the lease")
	require.False(t, time.Now().Before(end), "not before the lease was over")
	require.Equal(t, balance{Available: 9}, other.balance(t, "patient"))
	w.verified(t)
}
