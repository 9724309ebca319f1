package report_test

import (
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"creditgate/bench/report"
	"creditgate/bench/result"
)

// histogram holds latencies of 1 to 1,000 ms.
func histogram(t *testing.T) string {
	t.Helper()
	h := hdrhistogram.New(1, 60_000_000, 3)
	for i := int64(1); i <= 1000; i++ {
		require.NoError(t, h.RecordValue(i*1000))
	}
	packed, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	require.NoError(t, err)
	return string(packed)
}

// full is a run in which every promise is kept, just so.
func full(t *testing.T) *result.Run {
	t.Helper()
	hist := histogram(t)
	run := &result.Run{
		Name: "full", Started: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Command: `make bench ARGS="-quick"`,
		Machine:  result.Machine{CPU: "a <processor>", Cores: 2, RAMBytes: 8 << 30, Kernel: "linux 6.1"},
		Versions: result.Versions{Go: "go1.26.8", Redis: "Redis server v=7.0.15 sha=0", Creditgate: "abc1234"},
		Notes:    []string{"nginx is <not here>"},
	}
	add := func(r result.Row) {
		r.Body, r.Seconds, r.Latency.Hist = result.BodyJSON, 1, hist
		run.Rows = append(run.Rows, r)
	}
	for round := 1; round <= 3; round++ {
		for _, clients := range []int{64, 256} {
			for target, requests := range map[string]int64{
				"backend": 50_000, "proxy": 12_000, "free": 10_000, "metered": 6000, "naive": 3000, "pgrow": 1500, "nginx": 3750,
			} {
				r := result.Row{
					Suite: "closed", Target: target, Round: round, Clients: clients, Requests: requests,
					CPU: map[string]float64{"gateway": 50, "redis": 35, "client": 5},
				}
				if clients == 256 {
					r.CPU["redis"] = 25
				}
				if target == "metered" {
					r.Heap = result.Heap{Allocs: 30, Bytes: 4096}
				} else {
					r.Heap = result.Heap{Allocs: 18, Bytes: 2048}
				}
				add(r)
			}
		}
		for target, latency := range map[string]float64{"evalsha": 50, "free": 100, "metered": 250} {
			add(result.Row{Suite: "roundtrip", Target: target, Round: round, Clients: 1, Requests: 9, Latency: result.Latency{P50: latency}})
		}
		for target, latency := range map[string]float64{"free": 1000, "metered": 4000} {
			add(result.Row{
				Suite: "open", Target: target, Round: round, Clients: 256, Rate: 3000, Share: 0.5, Requests: 3000,
				Latency: result.Latency{P99: latency},
			})
		}
	}
	grow := func(suite string, cpu float64, r result.Row) {
		r.Suite, r.Target, r.Round, r.Clients, r.Requests = suite, "metered", 1, 64, 1000
		r.CPU = map[string]float64{"redis": cpu, "gateway": 50}
		add(r)
	}
	grow("accounts", 20, result.Row{Accounts: 1000})
	grow("accounts", 23, result.Row{Accounts: 1_000_000, Extra: map[string]float64{result.ExtraActive: 50_000}})
	grow("accounts", 22, result.Row{Accounts: 1_000_000, Extra: map[string]float64{result.ExtraKeyLookups: 1}})
	grow("grants", 20, result.Row{Grants: 1})
	grow("grants", 28, result.Row{Grants: 12})
	grow("partitions", 20, result.Row{Partitions: 1})
	grow("partitions", 25, result.Row{Partitions: 256})
	grow("gateways", 20, result.Row{Gateways: 1})
	grow("gateways", 20, result.Row{Gateways: 2})
	addClusters(add)
	grow("hot", 20, result.Row{Extra: map[string]float64{result.ExtraActive: 1}})
	add(result.Row{
		Suite: "flush", Target: "metered", Round: 1, Clients: 64, Requests: 9000,
		Extra: map[string]float64{result.ExtraSlope: 10, result.ExtraRecords: 1000},
		CPU:   map[string]float64{"postgres": 70}, Postgres: result.Postgres{Inserted: 2, Updated: 1, WALBytes: 1000},
		Series: []result.Point{{Second: 0, Value: 10}, {Second: 1, Value: 20}},
	})
	add(result.Row{
		Suite: "memory", Target: "metered", Round: 1, Accounts: 1_000_000, Grants: 3,
		Extra: map[string]float64{result.ExtraAccountSize: 400, result.ExtraHoldSize: 350, result.ExtraHolds: 100_000},
	})
	return run
}

// addClusters adds what Redis Clusters did: 10 µs a request and 20 µs a call.
func addClusters(add func(result.Row)) {
	for masters := 1; masters <= 3; masters++ {
		calls := float64(masters) / 4
		r := result.Row{
			Suite: "cluster", Target: "metered", Round: 1, Clients: 64, Masters: masters, Partitions: 4 * masters, Requests: 6000,
			CPU: map[string]float64{"redis": 10 + 20*calls, "gateway": 50}, Redis: result.Redis{Calls: calls, Commands: 4 * calls},
		}
		for i := range masters {
			m := result.Master{Partitions: 4, Share: 1 / float64(masters), CPU: r.CPU["redis"] / float64(masters)}
			if masters == 3 { // as it is with four partitions each
				m = result.Master{Partitions: 3, Share: 0.25, CPU: 25.0 / 4}
				if i == 0 {
					m = result.Master{Partitions: 6, Share: 0.5, CPU: 12.5}
				}
			}
			r.Cluster = append(r.Cluster, m)
		}
		add(r)
	}
}

// written is the report as HTML and as Markdown.
func written(t *testing.T, run *result.Run) (html, markdown string) {
	t.Helper()
	path, err := report.Write(run, filepath.Join(t.TempDir(), "made"))
	require.NoError(t, err)
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	text, err := os.ReadFile(strings.TrimSuffix(path, ".html") + ".md")
	require.NoError(t, err)
	return string(page), string(text)
}

// outcomes are the promises of a report by their outcome.
func outcomes(markdown string) map[string][]string {
	out := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (.*?) \| .* \| (reached|missed|not measured) \|$`).FindAllStringSubmatch(markdown, -1) {
		out[m[2]] = append(out[m[2]], m[1])
	}
	return out
}

const promises = 18

func TestPromisesKept(t *testing.T) {
	t.Parallel()
	_, markdown := written(t, full(t))
	require.Len(t, outcomes(markdown)["reached"], promises, markdown)
	for _, line := range []string{
		"| metered throughput ÷ creditgate, unmetered, 64 clients | ≥ 0.6 | 0.60 (0.60 to 0.60) | reached |",
		"| metered throughput ÷ nginx + Lua, 64 clients | ≥ 1.6 | 1.60 (1.60 to 1.60) | reached |",
		"| added p50 of a lone client ÷ bare EVALSHA round trip | ≤ 3 | 3 (3 to 3) | reached |",
		"| added p99, open loop at 50 % of the metered capacity | ≤ 3,000 µs | 3,000 µs (3,000 to 3,000) | reached |",
		"| Redis CPU per request, 1,000,000 accounts of which 50,000 are asked for ÷ 1,000 | ≤ 1.15 | 1.15 | reached |",
		"| Redis CPU per request, 1,000,000 accounts that are all asked for ÷ 1,000 | ≤ 1.15 | 1.10 | reached |",
		"| growth of the ledger's backlog at the full metered rate, of the records made | ≤ 1 % | 1 % | reached |",
	} {
		require.Contains(t, markdown, line+"\n")
	}
}

func TestPromisesBroken(t *testing.T) {
	t.Parallel()
	run := full(t)
	for i := range run.Rows {
		r := &run.Rows[i]
		switch {
		case r.Target != "metered":
			continue
		case r.Suite == "closed":
			r.Requests--
			r.Heap.Allocs++
			r.Heap.Bytes++
		case r.Grants > 3 || r.Partitions > 1 || r.Suite == "accounts" && r.Accounts > 1000:
			r.CPU["redis"] += 2
			continue
		}
		r.Latency.P50++
		r.Latency.P99++
		if r.CPU["redis"] >= 25 {
			r.CPU["redis"]++
		}
		for name := range r.Extra {
			r.Extra[name]++
		}
	}
	_, markdown := written(t, run)
	require.Len(t, outcomes(markdown)["missed"], promises, markdown)
}

// A promise about what was not measured is neither kept nor broken.
func TestPromisesNotMeasured(t *testing.T) {
	t.Parallel()
	_, markdown := written(t, &result.Run{Name: "empty"})
	require.Len(t, outcomes(markdown)["not measured"], promises-1, markdown) // of a million accounts, only all of them
	run := full(t)
	var rest []result.Row
	for _, r := range run.Rows {
		if r.Target != "nginx" && r.Target != "evalsha" {
			rest = append(rest, r)
		}
	}
	run.Rows = rest
	_, markdown = written(t, run)
	require.Equal(t, []string{
		"metered throughput ÷ nginx + Lua, 64 clients", "added p50 of a lone client ÷ bare EVALSHA round trip",
	}, outcomes(markdown)["not measured"])
}

// A ratio is taken within each round: here the machine was ten times slower in the second.
func TestRatiosWithinRounds(t *testing.T) {
	t.Parallel()
	run := full(t)
	for i := range run.Rows {
		if run.Rows[i].Round == 2 {
			run.Rows[i].Requests /= 10
		}
	}
	_, markdown := written(t, run)
	require.Contains(t, markdown, "| metered throughput ÷ two EVALSHA, 64 clients | ≥ 2 | 2 (2 to 2) | reached |\n")
	require.Contains(t, markdown, "| creditgate, metered | 6,000 (600 to 6,000) | 6,000 (600 to 6,000) |\n")
}

func TestPageIsWellFormed(t *testing.T) {
	t.Parallel()
	html, _ := written(t, full(t))
	require.Contains(t, html, "a &lt;processor&gt;, 2 cores")
	require.Contains(t, html, "nginx is &lt;not here&gt;")
	require.Contains(t, html, "creditgate abc1234 · Go 1.26.8 · Redis 7.0.15<")
	require.NotRegexp(t, `NaN|Inf|ZgotmplZ|http`, html)
	drawings := regexp.MustCompile(`(?s)<svg viewBox="0 0 640.*?</svg>`).FindAllString(html, -1)
	var titles []string
	for _, svg := range drawings {
		titles = append(titles, titleOf(svg))
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, svg)
		}
	}
	require.Equal(t, []string{
		"Throughput against clients", "Where a request's CPU goes, 64 clients", "Where a request's CPU goes, 256 clients",
		"Latency, closed loop of 64 clients", "Latency, open loop at 50 % of each target's capacity",
		"Latency, both at 50 % of the metered capacity", "Growth: accounts", "Growth: live grants of an account",
		"Growth: partitions", "Growth: gateways", "Redis Cluster: where a request's Redis CPU goes", "The ledger's backlog",
	}, titles)
}

// titleOf is the title of a drawing.
func titleOf(svg string) string {
	return strings.ReplaceAll(regexp.MustCompile(`aria-label="(.*?)"`).FindStringSubmatch(svg)[1], "&#39;", "'")
}

func TestRunThatCannotBeShown(t *testing.T) {
	t.Parallel()
	run := full(t)
	for i := range run.Rows {
		run.Rows[i].Latency.Hist = "no histogram"
	}
	_, err := report.Write(run, t.TempDir())
	require.ErrorContains(t, err, "plots of run full: Latency, closed loop of 64 clients, backend: histogram of round 1: ")
}

// A run that was stopped early has cells in which nothing was answered.
func TestRunOfNothing(t *testing.T) {
	t.Parallel()
	run := full(t)
	for i := range run.Rows {
		run.Rows[i] = result.Row{Suite: run.Rows[i].Suite, Target: run.Rows[i].Target, Round: 1, Clients: run.Rows[i].Clients}
	}
	html, _ := written(t, run)
	require.NotRegexp(t, `NaN|Inf`, html)
}

func TestRenewals(t *testing.T) {
	t.Parallel()
	run := &result.Run{Name: "renewals", Notes: []string{}}
	for i, phase := range []string{result.PhaseBefore, result.PhaseMidnight, result.PhaseAfter, result.PhaseRenewing} {
		run.Rows = append(run.Rows, result.Row{
			Suite: "renewals", Phase: phase, Target: "metered", Accounts: 1_000_000, Rate: 500, Requests: 5000, Seconds: 10,
			Latency: result.Latency{P50: 800, P99: float64(1000 * (i + 1)), P999: 5000, Max: 9000, Hist: histogram(t)},
			Extra:   map[string]float64{result.ExtraActive: 1000},
		})
	}
	maps.Copy(run.Rows[3].Extra, map[string]float64{
		result.ExtraIssued: 200, result.ExtraApplied: 250, result.ExtraLapsed: 50, result.ExtraBooked: 80,
		result.ExtraAccountSize: 300, result.ExtraAccountRenewed: 310, result.ExtraLedgerRenewed: 9, result.ExtraResident: 50 << 20, result.ExtraResidentPeak: 90 << 20,
	})
	html, markdown := written(t, run)
	require.NotRegexp(t, `NaN|Inf|ZgotmplZ`, html)
	for _, line := range []string{
		"## 1,000,000 subscriptions renew at one midnight",
		"| … and Redis has them, and Postgres knows | 250 | 4,000 |",
		"| the seconds around midnight | 10 | 5,000 | 0 | 0.80 | 2 | 5 | 9 |",
		"| while grants are issued and lapse | 10 | 5,000 | 0 | 0.80 | 4 | 5 | 9 |",
		"| Redis, bytes an account | 300 | 310 |",
		"| … of it the ledger, which stays for trim_lag | – | 9 |",
		"| gateway, MiB; after: the most it had | 50 | 90 |",
		"None of 20,000 requests was refused or failed.",
	} {
		require.Contains(t, markdown, line+"\n")
	}
	run.Rows[1].Errors = map[string]int64{"402": 7}
	_, markdown = written(t, run)
	require.Contains(t, markdown, "7 of 20,000 requests were refused or failed.\n")
}

func TestUnitsAreShownBesideTheBoundsOwn(t *testing.T) {
	t.Parallel()
	_, markdown := written(t, &result.Run{Name: "units", Rows: []result.Row{
		{Suite: "units", Target: result.UnitGet, Round: 1, Extra: map[string]float64{result.ExtraUnit: 273}},
	}})
	require.Contains(t, markdown, "| GET | 273 | 546 | 2 |\n")
	require.NotContains(t, markdown, "| SET |", "not measured")
}

func TestClusterMasterByMaster(t *testing.T) {
	t.Parallel()
	html, markdown := written(t, full(t))
	for _, line := range []string{
		"| 3 masters, 64 clients | 6,000 | 12 | 100 | 100 | 25 | 3 | 0.75 | 0 | 50 |",
		"| · master 1 |  | 6 | 50 | 50 | 25 | – | – |  |  |",
		"| · master 3 |  | 3 | 25 | 25 | 25 | – | – |  |  |",
		"| 1 master, 64 clients | 6,000 | 4 | 100 | 100 | 15 | 1 | 0.25 | 0 | 50 |",
	} {
		require.Contains(t, markdown, line+"\n")
	}
	require.Contains(t, html, "3 masters, 64 clients, master 1: 12.5<")
	require.Contains(t, markdown, "With 3 masters and equal ranges of slots, the fullest had 6 of 12 partitions and 50 % of the requests")
	require.Contains(t, markdown, "No reply of a Cluster was an error, so no call spanned slots.")
	run := full(t)
	for i := range run.Rows {
		if r := &run.Rows[i]; r.Masters == 3 {
			r.Redis.Errors = 0.5
			for n := range r.Cluster {
				r.Cluster[n].Share = 1.0 / 3
			}
		}
	}
	_, markdown = written(t, run)
	require.NotContains(t, markdown, "the fullest had")
	require.Contains(t, markdown, "3,000 replies of Redis Clusters were errors")
}

// The costs here: 50 µs of gateway, 70 µs of Postgres; of Redis 10 µs a request and 20 µs a call.
func TestGrowthOnPaper(t *testing.T) {
	t.Parallel()
	_, markdown := written(t, full(t))
	for _, line := range []string{
		"Redis: 10 µs for a request and 20 µs for each call, fitted to 3 rows, off by 0 % at most.",
		"| gateway, its flusher included | 50 | 14,000 |",
		"| Redis, one operation in a call | 50 | 14,000 |",
		"| Postgres | 70 | 10,000 |",
		// 10 + 20 × (4 ÷ 256) = 10.3 µs; two operations in two calls are 50 µs. 26 masters have 104 partitions, of which a
		// full flight meets 103.3: 10 + 20 × (103.3 ÷ 256) = 18.1 µs.
		"| 10,000 | 1 | 1 | 1 | 1 | 1 | 30,000 | 10 |",
		"| 100,000 | 8 | 1 | 2 | 8 | 10 | 300,000 | 100 |",
		"| 1,000,000 | 72 | 9 | 26 | 72 | 100 | 3,000,000 | 1,000 |",
		"Breaks first: Postgres: all gateways write to one primary, which cannot be multiplied. With 64 cores it takes 640,000 requests/s.",
		"One account took 1,000 requests/s, from 64 clients, at 20 µs of Redis each",
		"would take about 35,000 requests/s for it",
	} {
		require.Contains(t, markdown, line)
	}
}

// Postgres' cost decides what ends growth: here Redis ends at 3.6 to 6.6 million requests/s.
func TestWhatEndsGrowth(t *testing.T) {
	t.Parallel()
	for cost, want := range map[float64]string{
		1:  "Breaks first: Redis: there are at most 256 partitions, so at most 256 masters: 6,600,000 ",
		10: "Breaks first: Redis or Postgres, as flights are emptier or fuller. Redis: there are at most 256 partitions",
		70: "Breaks first: Postgres: ",
	} {
		run := full(t)
		for i := range run.Rows {
			if run.Rows[i].Suite == "flush" {
				run.Rows[i].CPU["postgres"] = cost
			}
		}
		_, markdown := written(t, run)
		require.Contains(t, markdown, want)
		require.Contains(t, markdown, ", 3,600,000 with one operation in a call.")
	}
}
