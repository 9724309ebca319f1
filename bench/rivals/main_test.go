package rivals_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/bench/cast"
	"creditgate/bench/rivals"
)

// start runs a target as bench/run does, and ends it with the test.
func start(t *testing.T, name string, args ...string) (addr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := rivals.Main(ctx, name, args, w)
		w.CloseWithError(err)
		ended <- err
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		cancel()
		require.NoError(t, err, name)
	}
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	require.True(t, ok, line)
	return addr
}

// client keeps its connections, one a caller.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 256, MaxIdleConns: 256}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func post(t *testing.T, c *http.Client, addr, path, key string) (status int, body []byte) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+path, strings.NewReader(`{"n":1}`))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, body
}

// volley sends n requests from 32 callers over the accounts in turn, and counts the answers by account and status.
func volley(t *testing.T, addr, path string, n, accounts int) []map[int]int {
	t.Helper()
	c := client(t)
	got := make([]map[int]int, accounts)
	for i := range got {
		got[i] = map[int]int{}
	}
	var mu sync.Mutex
	var next atomic.Int64
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				status, _ := post(t, c, addr, path, cast.Key(i%accounts))
				mu.Lock()
				got[i%accounts][status]++
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	return got
}

func TestBackend(t *testing.T) {
	t.Parallel()
	c := client(t)
	addr := start(t, "backend")
	status, body := post(t, c, addr, cast.PathPriced, "")
	require.Equal(t, 200, status)
	require.Len(t, body, cast.AnswerSize)
	require.True(t, json.Valid(body))
	status, body = post(t, c, addr, cast.PathImage, "")
	require.Equal(t, 200, status)
	require.Len(t, body, cast.ImageSize)

	const delay = 50 * time.Millisecond
	slow := start(t, "backend", "-delay", delay.String())
	began := time.Now()
	post(t, c, slow, "/", "")
	require.GreaterOrEqual(t, time.Since(began), delay)
}

func TestProxyForwardsForKnownKeys(t *testing.T) {
	t.Parallel()
	addr := start(t, "proxy", "-backend", start(t, "backend"), "-accounts", "2")
	c := client(t)
	for _, key := range []string{cast.Key(0), cast.Key(1)} {
		status, body := post(t, c, addr, cast.PathPriced, key)
		require.Equal(t, 200, status)
		require.Len(t, body, cast.AnswerSize)
	}
	status, body := post(t, c, addr, cast.PathImage, cast.Key(0))
	require.Equal(t, 200, status)
	require.Len(t, body, cast.ImageSize)
	status, _ = post(t, c, addr, cast.PathPriced, cast.Key(2))
	require.Equal(t, 401, status)
}

func TestProxyWithoutBackend(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := start(t, "proxy", "-backend", l.Addr().String())
	require.NoError(t, l.Close())
	status, _ := post(t, client(t), addr, "/", cast.Key(0))
	require.Equal(t, 502, status)
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, args, want string }{
		{"nobody", "-backend x", `target "nobody" is unknown: it is one of backend, proxy, naive, pgrow, nginx`},
		{"proxy", "", "target proxy needs -backend"},
		{"naive", "-backend x", "target naive needs -redis"},
		{"pgrow", "-backend x", "target pgrow needs -postgres"},
		{"nginx", "-backend x -redis y", "target nginx needs -dir"},
		{"proxy", "-backend x -grants 65", "-accounts 1 -grants 65 -credits 1000000000: 1 to 10000000 accounts, 1 to 64 grants, no debts"},
	} {
		require.EqualError(t, rivals.Main(t.Context(), c.name, strings.Fields(c.args), io.Discard), c.want)
	}
}
