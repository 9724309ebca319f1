package main_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/persist/persisttest"
)

// logLine is one line of a gateway's log.
type logLine struct {
	Level     string `json:"level"`
	Message   string `json:"message"`
	RequestID string `json:"request_id"`
	Account   string `json:"account"`
	Failed    int    `json:"failed"`
}

// lines are those of a gateway's log that fit.
func (p *process) lines(t *testing.T, fits func(logLine) bool) (found []logLine) {
	t.Helper()
	for line := range strings.Lines(p.text()) {
		var l logLine
		if json.Unmarshal([]byte(line), &l) == nil && fits(l) {
			found = append(found, l)
		}
	}
	return found
}

// told are the lines that a gateway wrote for people to act on, since it had written so many lines.
func (p *process) told(t *testing.T) []logLine {
	t.Helper()
	return p.lines(t, func(l logLine) bool { return l.Level == "warn" || l.Level == "error" })
}

func saysOf(text string) func(logLine) bool {
	return func(l logLine) bool { return strings.Contains(l.Message, text) }
}

// Seconds without Postgres are one line when it goes and one when it is back. What failed meanwhile is at debug.
func TestPostgresAwayIsTwoLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	server, database := persisttest.Private(t)
	w.database = database
	g := w.serve(t, "CREDITGATE_LOG_LEVEL=debug")
	key := g.account(t, "steady", "purchased", 100)
	g.becomes(t, http.StatusOK, readiness.well)
	require.Empty(t, g.told(t))

	require.NoError(t, server.Kill())
	// Until every loop has met the loss several times, and requests for keys that only Postgres knows as well.
	for _, failed := range []string{"flush interrupted", "events interrupted", "issuing grants failed", "sweep of pending", "webhooks wait"} {
		require.Eventually(t, func() bool {
			r, err := generate(t.Context(), http.DefaultClient, g.data, "sk-unknown")
			require.NoError(t, err)
			require.Equal(t, http.StatusServiceUnavailable, r.status)
			_, err = generate(t.Context(), http.DefaultClient, g.data, key)
			require.NoError(t, err)
			return len(g.lines(t, saysOf(failed))) >= 2
		}, 2*patience, 50*time.Millisecond, "no two of %q", failed)
	}
	lost := g.told(t)
	require.Len(t, lost, 1, "one line on loss")
	require.Contains(t, lost[0].Message, "Postgres is away")
	lookups := g.lines(t, saysOf("cannot look up an API key"))
	require.NotEmpty(t, lookups)
	require.False(t, slices.ContainsFunc(lookups, func(l logLine) bool { return l.Level != "debug" || l.RequestID == "" }))

	require.NoError(t, server.Restart(t.Context()))
	require.Eventually(t, func() bool { return len(g.lines(t, saysOf("Postgres is back"))) == 1 }, patience, 20*time.Millisecond)
	back := g.lines(t, saysOf("Postgres is back"))[0]
	require.Equal(t, "info", back.Level)
	require.GreaterOrEqual(t, back.Failed, 10+len(lookups))
	w.verified(t)
	require.Len(t, g.told(t), 1, "nothing else was told")
}

// A Redis that is away is one line, however many requests fail. Each of those says at debug which it is.
func TestRedisAwayIsTwoLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t, "CREDITGATE_LOG_LEVEL=debug")
	key := g.account(t, "steady", "purchased", 100)
	ask := func(times int) {
		for range times {
			_, err := generate(t.Context(), http.DefaultClient, g.data, key)
			require.NoError(t, err)
		}
	}
	ask(1)
	require.NoError(t, w.redis.Kill())
	ask(20)
	require.Eventually(t, func() bool { return len(g.lines(t, saysOf("cannot reserve"))) == 20 }, patience, 20*time.Millisecond)
	require.Len(t, g.told(t), 1, "one line on loss")
	require.Contains(t, g.told(t)[0].Message, "Redis is away")
	for _, l := range g.lines(t, saysOf("cannot reserve")) {
		require.Equal(t, "debug", l.Level)
		require.Equal(t, "steady", l.Account)
		require.NotEmpty(t, l.RequestID)
	}
	require.NoError(t, w.redis.Restart(t.Context()))
	require.Eventually(t, func() bool { return len(g.lines(t, saysOf("Redis is back"))) == 1 }, patience, 20*time.Millisecond)
	require.GreaterOrEqual(t, g.lines(t, saysOf("Redis is back"))[0].Failed, 20)
	require.Len(t, g.told(t), 1, "nothing else was told")
}

// A partition that stays fenced is one line for its reason, and records that are lost are counted once, however often
// opening is tried.
func TestFencedPartitionIsOneLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t, "CREDITGATE_LOG_LEVEL=debug")
	key := g.account(t, "steady", "purchased", 100)
	c, err := net.Dial("tcp", w.redis.Addr())
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "DEL {cg1:00}:meta\r\n")
	require.NoError(t, err)
	_, err = generate(t.Context(), http.DefaultClient, g.data, key) // finds it
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return len(g.lines(t, saysOf("partition still not open"))) >= 3
	}, patience, 20*time.Millisecond)
	require.Len(t, g.lines(t, saysOf("partition not open")), 1)
	require.LessOrEqual(t, len(g.lines(t, saysOf("Redis lost ledger records"))), 1)
	require.Len(t, g.becomes(t, http.StatusServiceUnavailable, func(r readiness) bool { return r.Redis.Up }).Partitions, 1)
}
