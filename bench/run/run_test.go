package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"creditgate/bench/load"
	"creditgate/bench/result"
	"creditgate/bench/stage"
)

// The bench starts its own program again, as targets and as client: here that is the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "target" || os.Args[1] == "load") {
		os.Exit(start(os.Args[1:]))
	}
	// With the race detector each of the processes would else sleep for a second before it ends.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(statusFailed)
	}
	os.Exit(m.Run())
}

// build makes the program that is measured, without the race detector.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "creditgate")
	cmd := exec.Command("go", "build", "-o", binary, "creditgate/cmd/creditgate")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return binary
}

// The whole bench on real servers, with cells as short as can be: it shows that everything still fits together, and
// nothing about speed.
func TestWholeBench(t *testing.T) {
	t.Parallel()
	dir, out := t.TempDir(), new(bytes.Buffer)
	c, err := parseFlags([]string{
		"-quick", "-length", "100ms", "-target", "free,metered", "-name", "tiny", "-out", dir, "-binary", build(t),
		"-suite", "closed,open,roundtrip,flush,gateways,cluster",
	}, out)
	require.NoError(t, err)
	require.NoError(t, measureAll(t.Context(), c, out), out)
	run, err := result.Read(filepath.Join(dir, "tiny", "tiny.json"))
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "report.html"))
	require.Positive(t, run.Machine.Cores)
	require.NotEmpty(t, run.Versions.Creditgate)
	require.Contains(t, run.Command, "-quick -length 100ms")

	cells, requests, idle := map[string]int{}, map[string]int64{}, map[string]bool{}
	var evals, allocs float64
	for _, row := range run.Rows {
		name := fmt.Sprintf("%s of %s", row.Target, row.Suite)
		// A capacity is measured again for an open loop where a busy machine answered nothing at first, and only then.
		capacity := row.Suite == "closed" && row.Clients == capacityClients
		if !capacity || !idle[row.Target] {
			cells[name]++
		}
		idle[row.Target] = idle[row.Target] || capacity && row.Throughput() < rateMin
		requests[row.Target] += row.Requests
		require.Empty(t, row.Errors, name)
		require.NotEmpty(t, row.Latency.Hist, name)
		require.Equal(t, 1000, row.Accounts, name)
		if row.Target == stage.Metered {
			evals += row.Redis.Calls
			allocs += row.Heap.Allocs
		}
	}
	// In sum, since a busy machine may answer nothing in the time of one cell.
	require.Positive(t, evals)
	require.Positive(t, allocs)
	require.Equal(t, map[string]int{
		"free of closed": 2, "metered of closed": 2, "free of open": 2, "metered of open": 2,
		"evalsha of roundtrip": 1, "free of roundtrip": 1, "metered of roundtrip": 1, "metered of flush": 1,
		"metered of gateways": 2, "metered of cluster": 2,
	}, cells)
	for _, target := range []string{stage.Free, stage.Metered, "evalsha"} {
		require.Positive(t, requests[target], target)
	}
	for _, row := range run.Rows {
		if row.Suite == "cluster" {
			require.Len(t, row.Cluster, row.Masters)
			share := 0.0
			for _, m := range row.Cluster {
				require.Positive(t, m.Partitions)
				require.Zero(t, m.Redis.Errors)
				share += m.Share
			}
			require.InDelta(t, 1, share, 1e-9)
		}
		if row.Suite == "open" {
			require.Positive(t, row.Rate)
		}
		if row.Suite == "flush" {
			require.NotEmpty(t, row.Series)
		}
	}
	require.Contains(t, out.String(), "[ 16/16, 0 s left]")
	_, err = os.Stat(c.dir)
	require.Error(t, err, "the servers' data is removed")
}

func TestUnits(t *testing.T) {
	t.Parallel()
	dir, out := t.TempDir(), new(bytes.Buffer)
	c, err := parseFlags([]string{"-quick", "-name", "tiny", "-out", dir, "-binary", build(t), "-suite", "units"}, out)
	require.NoError(t, err)
	require.NoError(t, measureAll(t.Context(), c, out), out)
	run, err := result.Read(filepath.Join(dir, "tiny", "tiny.json"))
	require.NoError(t, err)
	require.Len(t, run.Rows, len(result.Units()))
	for _, row := range run.Rows {
		require.Positive(t, row.Extra[result.ExtraUnit], row.Target)
	}
}

func TestMemoryOfAccountsAndHolds(t *testing.T) {
	t.Parallel()
	hall, err := stage.Open(t.Context(), t.TempDir(), stage.Programs{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, hall.Close()) })
	m, err := hall.Memory(t.Context(), 5000, 3, 4, 2000)
	require.NoError(t, err)
	// Three grants are some 40 bytes of numbers each: much less, and nothing was stored.
	require.Greater(t, m.PerAccount, 120.0)
	require.Greater(t, m.PerHold, 50.0)
}

// Nobody is refused while everybody's month ends, and each account is given its next grant once: CheckRenewed is in it.
func TestRenewals(t *testing.T) {
	t.Parallel()
	out := new(bytes.Buffer)
	c, err := parseFlags([]string{"-length", "200ms", "-suite", "renewals", "-binary", build(t)}, out)
	require.NoError(t, err)
	hall, err := openHall(t.Context(), t.TempDir(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, hall.Close()) })
	b := &bench{config: c, hall: hall, run: new(result.Run), progress: newProgress(out, nil, c)}
	t.Cleanup(func() { require.NoError(t, b.leave()) })
	const accounts = 600 // more than a page of the issuer
	require.NoError(t, b.enter(t.Context(), on(func(o *stage.Options) {
		o.Accounts, o.Grants, o.Renewing = accounts, stage.GrantsGiven, true
	})))
	require.Error(t, b.stage.CheckRenewed(t.Context()), "nothing is due before midnight")
	row := b.row("renewals", &cell{target: stage.Metered}, 1)
	require.NoError(t, renewals(t.Context(), b, row), out)
	require.Empty(t, b.run.Notes)
	phases := []string{row.Phase}
	for _, r := range append(b.run.Rows, *row) {
		require.Positive(t, r.Requests, r.Phase)
		require.Empty(t, r.Errors, r.Phase)
		require.NotEmpty(t, r.Latency.Hist, r.Phase)
	}
	for _, r := range b.run.Rows {
		phases = append(phases, r.Phase)
	}
	require.Equal(t, []string{result.PhaseRenewing, result.PhaseBefore, result.PhaseMidnight, result.PhaseAfter}, phases)
	extra := row.Extra
	require.Positive(t, extra[result.ExtraIssued])
	require.GreaterOrEqual(t, extra[result.ExtraApplied], extra[result.ExtraIssued])
	require.Positive(t, extra[result.ExtraLapsed])
	require.Positive(t, extra[result.ExtraBooked])
	require.Greater(t, extra[result.ExtraAccountSize], 100.0)
	require.Less(t, extra[result.ExtraLedgerRenewed], extra[result.ExtraAccountRenewed])
	require.Positive(t, extra[result.ExtraLedgerRenewed])
	require.GreaterOrEqual(t, extra[result.ExtraResidentPeak], extra[result.ExtraResident])
	require.InDelta(t, accounts, row.Series[len(row.Series)-1].Value, 0)
}

func TestPiecesAreMerged(t *testing.T) {
	t.Parallel()
	latency := func(micros ...int64) result.Latency {
		h := hdrhistogram.New(1, 1_000_000, 3)
		for _, v := range micros {
			require.NoError(t, h.RecordValue(v))
		}
		l, err := load.Latency(h)
		require.NoError(t, err)
		return l
	}
	both, err := merged(latency(100, 200), latency(300, 400))
	require.NoError(t, err)
	require.InDelta(t, 250, both.Mean, 0.1)
	require.InDelta(t, 400, both.Max, 0)
	_, err = merged(result.Latency{Hist: "none"}, latency(1))
	require.ErrorContains(t, err, "latencies of one piece")
	_, err = merged(latency(1), result.Latency{Hist: "none"})
	require.ErrorContains(t, err, "latencies of the next piece")
}

func TestFlagsAreRefusedByName(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"-suite nonsense", "-target nonsense", "-length 1ms", "-rounds 101", "-rounds -1", "-nonsense", "nonsense",
	} {
		_, err := parseFlags(strings.Fields(args), new(bytes.Buffer))
		require.ErrorIs(t, err, errUsage, args)
		require.ErrorContains(t, err, strings.Fields(args)[0], args)
	}
	_, err := parseFlags([]string{"-h"}, new(bytes.Buffer))
	require.ErrorIs(t, err, flag.ErrHelp)
}

func TestEverySuiteHasCells(t *testing.T) {
	t.Parallel()
	var list bytes.Buffer
	listSuites(&list)
	for _, quick := range []string{"-quick=false", "-quick"} {
		for _, s := range suites() {
			c, err := parseFlags([]string{quick, "-suite", s.name}, new(bytes.Buffer))
			require.NoError(t, err)
			require.NotEmpty(t, c.scenes(), s.name)
			require.Contains(t, list.String(), s.name)
			for _, scene := range c.scenes() {
				require.Equal(t, s.name, scene.suite)
			}
		}
	}
	c, err := parseFlags([]string{"-rounds", "2", "-suite", "closed", "-target", "pgrow"}, new(bytes.Buffer))
	require.NoError(t, err)
	for _, cell := range c.scenes()[0].cells {
		require.Equal(t, "pgrow", cell.target)
		require.Equal(t, 2, cell.rounds)
	}
}

func TestSlope(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 3, slope([]result.Point{{Second: 1, Value: 10}, {Second: 2, Value: 13}, {Second: 4, Value: 19}}), 1e-9)
	require.Zero(t, slope([]result.Point{{Second: 1, Value: 10}}))
	require.Zero(t, slope(nil))
}
