package main

import (
	"bytes"
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"creditgate/meter/redisd"
	"creditgate/persist/persisttest"
)

// log is what a node said so far.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

// A node that has ended has ended whole: no goroutine of any part goes on.
//
//nolint:paralleltest // goroutines of other tests would be taken for leaks
func TestNodeLeavesNothingBehind(t *testing.T) {
	redis, database := redisd.Test(t), persisttest.DB(t)
	before := goleak.IgnoreCurrent()
	admin := freePort(t)
	said := &log{}
	a := &app{out: said, err: said, environ: []string{
		"CREDITGATE_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_LISTEN=" + admin, "CREDITGATE_ADMIN_TOKEN=a-token-for-tests-only",
		"CREDITGATE_REDIS_URL=" + redis.URL(), "CREDITGATE_POSTGRES_URL=" + database, "CREDITGATE_UPSTREAM=http://127.0.0.1:1",
		"CREDITGATE_POLICY=../../meter/policy/examples/dev.yaml", "CREDITGATE_JOURNAL_DIR=" + filepath.Join(t.TempDir(), "journal"),
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	status := make(chan int, 1)
	go func() { status <- a.run(ctx, []string{"serve"}) }()
	require.Eventually(t, func() bool {
		code, err := get(ctx, "http://"+admin+"/readyz")
		return err == nil && code == http.StatusOK
	}, 30*time.Second, 10*time.Millisecond)
	cancel()
	select {
	case got := <-status:
		require.Zero(t, got)
	case <-time.After(30 * time.Second):
		require.FailNow(t, "the node does not end")
	}
	require.True(t, said.has("stopped"))
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, before,
		// one a process, for ever, and one a server, which looks only every ten seconds whether it is over
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

func freePort(t *testing.T) string {
	t.Helper()
	addr, err := choosePort(t.Context(), "", 0)
	require.NoError(t, err)
	return addr
}
