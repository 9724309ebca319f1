package result_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/bench/result"
)

func row() result.Row {
	return result.Row{
		Suite: "open", Target: "metered", Round: 2, Clients: 64, Rate: 1000.5, Share: 0.5, Accounts: 1000, Grants: 3,
		Partitions: 4, Gateways: 1, Masters: 1, Body: result.BodyImage, BackendMS: 20, Requests: 100,
		Errors: map[string]int64{"402": 3, "read": 1}, Seconds: 2,
		Latency: result.Latency{P50: 1, P90: 2, P99: 3, P999: 4, Max: 5, Mean: 1.5, Hist: "HISTFAAAA"},
		CPU:     map[string]float64{"redis": 33.3},
		Redis:   result.Redis{Commands: 1, InBytes: 2, OutBytes: 3, Calls: 0.1},
		Heap:    result.Heap{Allocs: 12, Bytes: 2048}, Backlog: result.Backlog{Start: 1, End: 2, Max: 3},
		Extra: map[string]float64{result.ExtraLag: 0.5}, Series: []result.Point{{Second: 0.5, Value: 7}},
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "there")
	run := &result.Run{
		Name: "first", Started: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Command: `make bench ARGS="-quick"`,
		Machine:  result.Machine{CPU: "c", Cores: 2, RAMBytes: 1 << 34, Kernel: "linux 6"},
		Versions: result.Versions{Go: "go1.26", Redis: "7", Postgres: "17", Nginx: "", Creditgate: "abc"},
		Rows:     []result.Row{row()}, Notes: []string{"nginx is not here"},
	}
	path, err := run.Write(dir)
	require.NoError(t, err)
	run.Rows = append(run.Rows, row())
	again, err := run.Write(dir) // over the first, as after each cell
	require.NoError(t, err)
	require.Equal(t, path, again)
	read, err := result.Read(path)
	require.NoError(t, err)
	require.Equal(t, run, read)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
}

func TestFigures(t *testing.T) {
	t.Parallel()
	require.Equal(t, int64(4), row().Failed())
	require.InDelta(t, 48, row().Throughput(), 1e-9, "what failed was not put through")
	require.Zero(t, result.Row{Requests: 5}.Throughput())
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a/b", "../x"} {
		_, err := (&result.Run{Name: name}).Write(t.TempDir())
		require.ErrorContains(t, err, "name", name)
	}
	path := filepath.Join(t.TempDir(), "x.json")
	_, err := result.Read(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	for text, why := range map[string]string{"{": "no result", "{}": "no name"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := result.Read(path)
		require.ErrorContains(t, err, why)
	}
}
