package main_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/persist/persisttest"
)

// standing is what /readyz says about one server.
type standing struct {
	Up    bool      `json:"up"`
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
}

// readiness is the body of /readyz.
type readiness struct {
	Detail     string           `json:"detail"`
	Redis      standing         `json:"redis"`
	Postgres   standing         `json:"postgres"`
	Partitions []map[string]any `json:"closed_partitions"`
}

func (g *gateway) readyz(t *testing.T) (status int, r readiness) {
	t.Helper()
	status, body := g.ask(t, "GET", "/readyz", "")
	require.NoError(t, json.Unmarshal([]byte(body), &r), body)
	return status, r
}

// becomes waits until /readyz answers so.
func (g *gateway) becomes(t *testing.T, status int, fits func(readiness) bool) (r readiness) {
	t.Helper()
	require.Eventually(t, func() bool {
		have, now := g.readyz(t)
		r = now
		return have == status && fits(r)
	}, patience, 20*time.Millisecond, "/readyz is not %d as it should be", status)
	return r
}

func (r readiness) well() bool { return r.Redis.Up && r.Postgres.Up && len(r.Partitions) == 0 }

// redisDoes sends one inline command to a Redis.
func (w *world) redisDoes(t *testing.T, command string) {
	t.Helper()
	c, err := net.Dial("tcp", w.redis.Addr())
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, command+"\r\n")
	require.NoError(t, err)
	answer := make([]byte, 256)
	n, err := c.Read(answer)
	require.NoError(t, err)
	require.Equal(t, "+OK\r\n", string(answer[:n]))
}

// Whatever keeps a gateway from charging makes it unready, with the cause, and goes by itself.
func TestNotReadyWhileNothingCanBeCharged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil, mend func(t *testing.T, w *world)
		cause       string
	}{
		"killed": {
			func(t *testing.T, w *world) { t.Helper(); require.NoError(t, w.redis.Kill()) },
			func(t *testing.T, w *world) { t.Helper(); require.NoError(t, w.redis.Restart(t.Context())) },
			"connection refused",
		},
		"frozen": {
			func(t *testing.T, w *world) { t.Helper(); require.NoError(t, w.redis.Pause()) },
			func(t *testing.T, w *world) { t.Helper(); require.NoError(t, w.redis.Resume()) },
			"does not answer",
		},
		"full": {
			func(t *testing.T, w *world) { t.Helper(); w.redisDoes(t, "CONFIG SET maxmemory 1") },
			func(t *testing.T, w *world) { t.Helper(); w.redisDoes(t, "CONFIG SET maxmemory 0") },
			"full",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			g := w.serve(t)
			key := g.account(t, "steady", "purchased", 10)
			asked := func() int {
				r, err := generate(t.Context(), http.DefaultClient, g.data, key)
				require.NoError(t, err)
				return r.status
			}
			require.Equal(t, http.StatusOK, asked())
			require.Equal(t, "1", g.metric(t, "creditgate_redis_up"))

			began := time.Now().Add(-time.Second).Truncate(time.Second) // since has whole seconds
			c.spoil(t, w)
			r := g.becomes(t, http.StatusServiceUnavailable, func(r readiness) bool { return !r.Redis.Up })
			require.Contains(t, r.Redis.Cause, c.cause)
			require.Contains(t, r.Detail, c.cause)
			require.WithinRange(t, r.Redis.Since, began, time.Now().Add(time.Second))
			require.True(t, r.Postgres.Up)
			require.Equal(t, "0", g.metric(t, "creditgate_redis_up"))
			require.Equal(t, http.StatusServiceUnavailable, asked())

			c.mend(t, w)
			g.becomes(t, http.StatusOK, readiness.well)
			require.Equal(t, "1", g.metric(t, "creditgate_redis_up"))
			require.Equal(t, http.StatusOK, asked(), "what is ready takes requests")
		})
	}
}

// A gateway without Postgres serves, is ready, and says so.
func TestReadyWithoutPostgresSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	server, database := persisttest.Private(t)
	w.database = database
	g := w.serve(t)
	g.becomes(t, http.StatusOK, readiness.well)
	require.Equal(t, "1", g.metric(t, "creditgate_postgres_up"))

	require.NoError(t, server.Kill())
	r := g.becomes(t, http.StatusOK, func(r readiness) bool { return !r.Postgres.Up })
	require.NotEmpty(t, r.Postgres.Cause)
	require.False(t, r.Postgres.Since.IsZero())
	require.Equal(t, "0", g.metric(t, "creditgate_postgres_up"))

	require.NoError(t, server.Restart(t.Context()))
	g.becomes(t, http.StatusOK, readiness.well)
	require.NoError(t, server.Pause())
	g.becomes(t, http.StatusOK, func(r readiness) bool { return strings.Contains(r.Postgres.Cause, "does not answer") })
	require.NoError(t, server.Resume())
	g.becomes(t, http.StatusOK, readiness.well)
	require.Equal(t, "1", g.metric(t, "creditgate_postgres_up"))
}
