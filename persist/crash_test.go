package persist_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// crashEnv makes the test binary play a gateway whose flusher dies: "<step> <occurrence> <redis url> <postgres url>".
const crashEnv = "PERSIST_TEST_CRASH"

// crash flushes until the step has come that often, and then ends as kill -9 ends a process.
func crash() {
	err := flushUntilKilled(strings.Fields(os.Getenv(crashEnv)))
	fmt.Fprintln(os.Stderr, "the step never came:", err)
	os.Exit(1)
}

func flushUntilKilled(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	step, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	left, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	store, err := persist.Open(ctx, args[3], layout, nil)
	if err != nil {
		return err
	}
	engine, err := newEngine(store, args[2], new(meter.Clock), zerolog.Nop())
	if err != nil {
		return err
	}
	options := persist.FlushOptions{
		TrimLag: time.Nanosecond, Wait: 20 * time.Millisecond, Every: time.Millisecond,
		OnStep: func(_ uint16, at persist.Step) {
			if at == persist.Step(step) {
				left--
			}
			if left == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // until it arrives
			}
		},
	}
	source := pagedSource{LedgerReader: engine.Ledger(), atMost: 3} // so that every step comes several times
	go persist.NewFlusher(store, source, options, prometheus.NewRegistry(), zerolog.Nop()).Run(ctx)
	return engine.Run(ctx)
}

// pagedSource reads a few records at a time.
type pagedSource struct {
	*meter.LedgerReader

	atMost int
}

func (s pagedSource) Read(
	ctx context.Context, partition uint16, after meter.Position, limit int, wait time.Duration,
) (*meter.Records, uint64, error) {
	return s.LedgerReader.Read(ctx, partition, after, min(limit, s.atMost), wait)
}

// bookBatches books enough for several transactions of several records each.
func (b *bundle) bookBatches(t *testing.T, grants map[string]meter.ID, batches int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for range batches {
		var entries []meter.Entry
		for account, grant := range grants {
			for range 600 {
				id := meter.NewID(time.UnixMilli(startMs))
				grantOf(b.account(account), grant).Available--
				entries = append(entries, commitEntry(account, id, grant, 1, 2, meter.Note{Operation: "apply"}))
			}
		}
		b.book(entries...)
	}
}

// requireExactlyOnce compares the ledger in Postgres with the one in Redis' stand-in, and verifies everything.
func (b *bundle) requireExactlyOnce(t *testing.T) {
	t.Helper()
	records, err := b.ledger.all(0)
	require.NoError(t, err)
	entries := 0
	for _, r := range records {
		entries += len(r.Entries)
	}
	got := b.query(t, `SELECT count(*), min(pseq), max(pseq) FROM creditgate.ledger_record`)
	require.Equal(t, []any{int64(len(records)), int64(1), int64(len(records))}, got[0], "pseq must be dense")
	require.Equal(t, int64(entries), b.query(t, `SELECT count(*) FROM creditgate.ledger_entry`)[0][0])
	b.requireNoDrift(t)
}

func (b *bundle) requireNoDrift(t *testing.T) {
	t.Helper()
	report, err := persist.Verify(t.Context(), b.store, b.live)
	require.NoError(t, err)
	require.True(t, report.OK(), printed(t, report))
	require.NotZero(t, report.Accounts)
}

func printed(t *testing.T, report *persist.Report) string {
	t.Helper()
	var text strings.Builder
	require.NoError(t, report.Print(&text))
	return text.String()
}

func TestFlusherKilledAtEachStep(t *testing.T) {
	t.Parallel()
	steps := map[string]persist.Step{
		"after read": persist.StepRead, "after COPY": persist.StepCopied,
		"after COMMIT": persist.StepCommitted, "after trim": persist.StepTrimmed,
	}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			stop := h.startFlusher(t) // an account is loaded once the flusher has passed what came before
			h.addAccount(t, "ada", 100)
			h.addAccount(t, "bob", 100)
			stop()
			for occurrence := 1; occurrence <= 3; occurrence++ {
				for range 10 {
					h.charge(t, "ada", 2, 1)
					h.charge(t, "bob", 1, 1)
				}
				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s %s", crashEnv, step, occurrence,
					h.redis.URL(), h.url))
				child.Stderr = os.Stderr
				err := child.Run()
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit)
				require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "it must die at its step")
			}
			h.startFlusher(t)
			h.requireNoDrift(t)
			// 2 grants, 30 commits each; nobody trims what was not flushed, and nothing is there twice
			require.Equal(t, [][]any{{int64(62), int64(62), int64(60), int64(30)}}, h.query(t, `SELECT count(*),
				count(DISTINCT (pseq, idx)), count(*) FILTER (WHERE kind = 'commit'),
				count(*) FILTER (WHERE kind = 'commit' AND account = 'ada') FROM creditgate.ledger_entry`))
			require.Equal(t, [][]any{{true}},
				h.query(t, `SELECT max(pseq) = count(*) AND min(pseq) = 1 FROM creditgate.ledger_record`))
		})
	}
}

func TestFlusherSurvivesPostgresKilled(t *testing.T) {
	t.Parallel()
	server, url := persisttest.Private(t)
	b := setupOn(t, url)
	grants := map[string]meter.ID{"ada": b.addAccount(t, "ada")}
	copied := make(chan struct{}, 1)
	b.startFlusher(t, persist.FlushOptions{OnStep: func(_ uint16, at persist.Step) {
		if at == persist.StepCopied {
			select {
			case copied <- struct{}{}:
			default:
			}
		}
	}})
	for range 3 {
		b.bookBatches(t, grants, 4)
		<-copied // a transaction is under way
		require.NoError(t, server.Kill())
		require.NoError(t, server.Restart(t.Context()))
	}
	b.bookBatches(t, grants, 1)
	b.awaitFlushed(t)
	b.requireExactlyOnce(t)
}
