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

// crashEnv makes the test binary play a gateway whose flusher dies: "<step> <occurrence> <epoch> <ledger dir> <url>".
const crashEnv = "PERSIST_TEST_CRASH"

// crash flushes until the step has come that often, and then ends as kill -9 ends a process.
func crash() {
	f := strings.Fields(os.Getenv(crashEnv))
	step, _ := strconv.Atoi(f[0])
	left, _ := strconv.Atoi(f[1])
	ledger := newFileLedger(f[3])
	ledger.atMost = 3 // so that every step comes several times
	ledger.epoch, _ = strconv.ParseUint(f[2], 10, 64)
	store, err := persist.Open(context.Background(), f[4], layout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	options := persist.FlushOptions{
		TrimLag: time.Nanosecond, Wait: 20 * time.Millisecond,
		OnStep: func(_ uint16, at persist.Step) {
			if left -= match(int(at), step); left == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // until it arrives
			}
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	persist.NewFlusher(store, ledger, options, prometheus.NewRegistry(), zerolog.Nop()).Run(ctx)
	fmt.Fprintln(os.Stderr, "the step never came")
	os.Exit(1)
}

func match(a, b int) int {
	if a == b {
		return 1
	}
	return 0
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
	var text strings.Builder
	require.NoError(t, report.Print(&text))
	require.True(t, report.OK(), text.String())
	require.NotZero(t, report.Accounts)
}

func TestFlusherKilledAtEachStep(t *testing.T) {
	t.Parallel()
	steps := map[string]persist.Step{
		"after read": persist.StepRead, "after COPY": persist.StepCopied,
		"after COMMIT": persist.StepCommitted, "after trim": persist.StepTrimmed,
	}
	for name, step := range steps {
		for _, occurrence := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s %d", name, occurrence), func(t *testing.T) {
				t.Parallel()
				b := setup(t)
				grants := map[string]meter.ID{"ada": b.addAccount(t, "ada"), "bob": b.addAccount(t, "bob")}
				b.bookBatches(t, grants, 6)
				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %d %s %s", crashEnv, step, occurrence,
					b.ledger.epoch, b.ledger.dir, b.url))
				child.Stderr = os.Stderr
				err := child.Run()
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit)
				require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "it must die at its step")

				b.flush(t)
				b.requireExactlyOnce(t)
			})
		}
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
