package redisd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"creditgate/meter/redisd"
)

// parentEnv makes the test binary the parent of a server: it starts one in that directory, prints its address and
// waits to be killed.
const parentEnv = "REDISD_TEST_PARENT_OF"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentEnv); dir != "" {
		s, err := redisd.Start(context.Background(), redisd.Options{Dir: dir})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, s.Addr())
		select {}
	}
	goleak.VerifyTestMain(m)
}

func client(t *testing.T, s *redisd.Server) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(s.URL())
	require.NoError(t, err)
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ReadTimeout = 200 * time.Millisecond
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestServerIsConfiguredLikeProduction(t *testing.T) {
	t.Parallel()
	s, err := redisd.Start(t.Context(), redisd.Options{
		Dir: t.TempDir(), Args: []string{"--maxmemory", "64mb", "--port", "1", "--dir", "/"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Kill()) })
	c := client(t, s)
	for setting, want := range map[string]string{
		"appendonly":       "yes",
		"appendfsync":      "everysec",
		"maxmemory-policy": "noeviction",
		"save":             "",
		"bind":             "127.0.0.1",
		"maxmemory":        "67108864",
		"dir":              s.Dir(), // not the one in the arguments
	} {
		got, err := c.ConfigGet(t.Context(), setting).Result()
		require.NoError(t, err)
		require.Equal(t, want, got[setting], setting)
	}
	require.FileExists(t, filepath.Join(s.Dir(), "redis.log"))
}

func TestKilledServerKeepsItsDataAndPort(t *testing.T) {
	t.Parallel()
	s := redisd.Test(t)
	c := client(t, s)
	require.NoError(t, c.Set(t.Context(), "k", "v", 0).Err())
	pid, exited := s.PID(), s.Exited()

	require.NoError(t, s.Kill())
	<-exited
	require.Error(t, c.Ping(t.Context()).Err())
	require.NoError(t, s.Kill(), "killing the dead is no error")
	require.NoError(t, s.Stop(), "nor is stopping them")
	require.Error(t, s.Pause(), "but nothing can be paused")

	addr := s.Addr()
	require.NoError(t, s.Restart(t.Context()))
	require.Equal(t, addr, s.Addr())
	require.NotEqual(t, pid, s.PID())
	require.Equal(t, "v", c.Get(t.Context(), "k").Val())
	select {
	case <-s.Exited():
		t.Fatal("the new life is over already")
	default:
	}
}

func TestRestartStopsARunningServerFirst(t *testing.T) {
	t.Parallel()
	s := redisd.Test(t)
	c := client(t, s)
	require.NoError(t, c.Set(t.Context(), "k", "v", 0).Err())
	first := s.Exited()
	require.NoError(t, s.Restart(t.Context()))
	<-first
	require.Equal(t, "v", c.Get(t.Context(), "k").Val())
}

func TestPausedServerAnswersOnlyWhenResumed(t *testing.T) {
	t.Parallel()
	s := redisd.Test(t)
	c := client(t, s)
	require.NoError(t, c.Ping(t.Context()).Err())
	for range 10 { // what was sent after Pause returned is never executed before Resume
		require.NoError(t, s.Pause())
		err := c.Ping(t.Context()).Err()
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout(), err)
		require.NoError(t, s.Resume())
		require.NoError(t, c.Ping(t.Context()).Err())
	}
}

func TestPausedServerCanBeStopped(t *testing.T) {
	t.Parallel()
	s := redisd.Test(t)
	require.NoError(t, s.Pause())
	require.NoError(t, s.Stop())
}

func TestPausedServerCanBeKilled(t *testing.T) {
	t.Parallel()
	s := redisd.Test(t)
	require.NoError(t, s.Pause())
	require.NoError(t, s.Kill())
	require.NoError(t, s.Restart(t.Context()))
}

func TestSupervisorSeesADeathItDidNotCause(t *testing.T) {
	t.Parallel()
	s := redisd.Test(t)
	require.NoError(t, syscall.Kill(s.PID(), syscall.SIGKILL))
	<-s.Exited()
	require.NoError(t, s.Restart(t.Context()))
}

func TestManyServersStartAtOnce(t *testing.T) {
	t.Parallel()
	const servers = 16
	var wg sync.WaitGroup
	started := make([]*redisd.Server, servers)
	for i := range started {
		wg.Go(func() { started[i] = redisd.Test(t) })
	}
	wg.Wait()
	pids := map[int]bool{}
	for _, s := range started {
		require.NotNil(t, s)
		pids[s.PID()] = true
		require.NoError(t, client(t, s).Ping(t.Context()).Err())
	}
	require.Len(t, pids, servers)
}

func TestGivenPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = redisd.Start(t.Context(), redisd.Options{Dir: t.TempDir(), Port: l.Addr().(*net.TCPAddr).Port})
	require.ErrorContains(t, err, "its port is in use: choose another one")
	require.ErrorContains(t, err, "Address already in use", "the log's end is part of the message")
}

// A server of somebody else on the port must not be taken for the one that could not have it.
func TestGivenPortInUseByAnotherServer(t *testing.T) {
	t.Parallel()
	other := redisd.Test(t)
	_, port, err := net.SplitHostPort(other.Addr())
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	_, err = redisd.Start(t.Context(), redisd.Options{Dir: t.TempDir(), Port: n})
	require.ErrorContains(t, err, "its port is in use")
}

func TestDirectoryIsServedOnce(t *testing.T) {
	t.Parallel()
	s := redisd.Test(t)
	_, err := redisd.Start(t.Context(), redisd.Options{Dir: s.Dir()})
	require.ErrorContains(t, err, fmt.Sprintf("another server (pid %d) is using %s: stop it", s.PID(), s.Dir()))
}

func TestBadArgumentIsReportedWithTheLog(t *testing.T) {
	t.Parallel()
	_, err := redisd.Start(t.Context(), redisd.Options{Dir: t.TempDir(), Args: []string{"--maxmemory", "plenty"}})
	require.ErrorContains(t, err, "it ended: exit status 1")
	require.ErrorContains(t, err, `'maxmemory "plenty"'`)
}

func TestDirectoryIsRequired(t *testing.T) {
	t.Parallel()
	_, err := redisd.Start(t.Context(), redisd.Options{})
	require.ErrorContains(t, err, "Options.Dir is empty")
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := redisd.Start(ctx, redisd.Options{Dir: t.TempDir()})
	require.ErrorContains(t, err, "enough")
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := redisd.Start(b.Context(), redisd.Options{Dir: b.TempDir()})
		require.NoError(b, err)
		require.NoError(b, s.Kill())
	}
}
