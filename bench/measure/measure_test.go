package measure

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter/redisd"
	"creditgate/persist/persisttest"
)

func TestMain(m *testing.M) { persisttest.Main(m) }

func TestParseStat(t *testing.T) {
	t.Parallel()
	p, err := parseStat([]byte("42 (a (b) c) S 7 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 5 6 7\n"))
	require.NoError(t, err)
	require.Equal(t, process{pid: 42, parent: 7, used: 110 * tick}, p)
	for _, line := range []string{"", "42 S 7", "x (a) S 7 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "42 (a) S 7", "42 (a) S 7 1 1 1 1 1 1 1 1 1 x 1 1 1"} {
		_, err := parseStat([]byte(line))
		require.Error(t, err, line)
	}
}

// A process is charged for its children, those included that have ended.
func TestCPUOfATree(t *testing.T) {
	t.Parallel()
	burn := "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
	cmd := exec.Command("sh", "-c", "sh -c '"+burn+"'; echo burnt; read end")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, len("burnt")))
	require.NoError(t, err)
	used, err := CPU(cmd.Process.Pid)
	require.NoError(t, err)
	require.GreaterOrEqual(t, used, 2*tick)
	mine, err := CPU(os.Getpid())
	require.NoError(t, err)
	require.GreaterOrEqual(t, mine, used)
	require.NoError(t, in.Close())
	_ = cmd.Wait() // read at the end of input fails
	_, err = CPU(cmd.Process.Pid)
	require.ErrorContains(t, err, "does not run")
}

func TestResident(t *testing.T) {
	t.Parallel()
	now, peak, err := Resident(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, now, 1e6)
	require.GreaterOrEqual(t, peak, now)
	_, _, err = Resident(-1)
	require.ErrorContains(t, err, "memory of process -1")
}

func TestRedisCountsWhatItWasAsked(t *testing.T) {
	t.Parallel()
	server := redisd.Test(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	sha, err := client.ScriptLoad(t.Context(), "return redis.call('SET', KEYS[1], ARGV[1])").Result()
	require.NoError(t, err)
	before, err := ReadRedis(t.Context(), []*redis.Client{client})
	require.NoError(t, err)
	value := strings.Repeat("x", 10_000)
	for range 5 {
		require.NoError(t, client.EvalSha(t.Context(), sha, []string{"a"}, value).Err())
	}
	after, err := ReadRedis(t.Context(), []*redis.Client{client})
	require.NoError(t, err)
	require.Error(t, client.Do(t.Context(), "GET").Err())
	failed, err := ReadRedis(t.Context(), []*redis.Client{client})
	require.NoError(t, err)
	require.InDelta(t, 1, failed[0].Since(after[0]).Errors, 0)
	used := after[0].Since(before[0])
	require.InDelta(t, 5, used.Calls, 0)
	require.Zero(t, used.Errors)
	require.InDelta(t, 5+5+1, used.Commands, 0, "the scripts, what they call, and the first INFO")
	require.GreaterOrEqual(t, used.InBytes, 50_000.0)
	require.Less(t, used.InBytes, 55_000.0)
	require.Positive(t, used.OutBytes)
	require.Positive(t, used.CPUMicros)
	require.GreaterOrEqual(t, used.Memory, 10_000.0)
	twice, err := ReadRedis(t.Context(), []*redis.Client{client, client})
	require.NoError(t, err)
	require.InDelta(t, 2*after[0].Calls, SumRedis(twice).Calls, 0)
}

func TestParseInfoRefuses(t *testing.T) {
	t.Parallel()
	_, err := parseInfo("used_memory:x\r\n")
	require.ErrorContains(t, err, "used_memory")
	_, err = parseInfo("# Server\r\n")
	require.ErrorContains(t, err, "used_memory")
}

func TestMetricsAreSummed(t *testing.T) {
	t.Parallel()
	text := "# HELP a b\n# TYPE a counter\na{x=\"1 2\",y=\"}\"} 3\na{x=\"2\"} 4.5\nb 1e+06\n\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" || r.Header.Get("Authorization") != "Bearer token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(server.Close)
	gateways := []Gateway{{server.URL, "token"}, {server.URL, "token"}}
	m, err := ReadMetrics(t.Context(), gateways)
	require.NoError(t, err)
	require.Equal(t, Metrics{"a": 15, "b": 2e6}, m)
	require.Equal(t, Metrics{"a": 14, "b": 2e6}, m.Since(Metrics{"a": 1}))
	largest, err := Largest(t.Context(), gateways, "a")
	require.NoError(t, err)
	require.InDelta(t, 4.5, largest, 0)

	_, err = ReadMetrics(t.Context(), []Gateway{{server.URL, "wrong"}})
	require.ErrorContains(t, err, "403")
	ended, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	_, err = ReadMetrics(ended, gateways)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	for _, line := range []string{"word", "a x"} {
		require.Error(t, parseMetrics(strings.NewReader(line), func(string, float64) {}), line)
	}
}

// A session adds to the counters when it ends, at the latest.
func TestPostgresCountsWhatItWrote(t *testing.T) {
	t.Parallel()
	url := persisttest.Empty(t)
	reader, err := NewPostgresReader(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reader.Close()) })
	before, err := reader.Read(t.Context())
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE written (n int); INSERT INTO written SELECT generate_series(1, 5000); "+
		"UPDATE written SET n = 0 WHERE n <= 2000")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	var used Postgres
	require.Eventually(t, func() bool {
		after, err := reader.Read(t.Context())
		require.NoError(t, err)
		used = after.Since(before)
		return used.Inserted >= 5000
	}, 10*time.Second, 10*time.Millisecond)
	require.InDelta(t, 5000, used.Inserted, 500, "and some in the catalogue")
	require.InDelta(t, 2000, used.Updated, 200)
	require.Greater(t, used.WALBytes, 5000*32.0)
}
