package events_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/events"
)

// crashEnv makes the test binary play a gateway whose producer dies: "<step> <occurrence> <postgres url>".
const crashEnv = "EVENTS_TEST_CRASH"

// crash produces until the step has come that often, and then ends as kill -9 ends a process.
func crash() {
	args := strings.Fields(os.Getenv(crashEnv))
	fmt.Fprintln(os.Stderr, "the step never came:", produceUntilKilled(args))
	os.Exit(1)
}

func produceUntilKilled(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	step, err := strconv.Atoi(args[0])
	left, err2 := strconv.Atoi(args[1])
	store, err3 := persist.Open(ctx, args[2], layout, nil)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	options := events.Options{Every: time.Millisecond, OnStep: func(at events.Step) {
		if at == events.Step(step) {
			left--
		}
		if left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}}
	rules := policy.NewCatalog(catalog(studio(policy.Notices{LowPercent: []int{50}, ExpiringDays: 14})))
	events.NewProducer(store.Pool(), layout, rules, options, prometheus.NewRegistry(), zerolog.Nop()).Run(ctx)
	return ctx.Err()
}

func TestProducerKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]events.Step{
		"after reading": events.StepRead, "after inserting": events.StepInserted, "after COMMIT": events.StepCommitted,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notices := policy.Notices{LowPercent: []int{50}, ExpiringDays: 14}
			h := newHouse(t, notices)
			const rounds, accounts = 3, 4
			for round := range rounds {
				for i := range accounts {
					name := fmt.Sprintf("a%d-%d", round, i)
					h.account(t, name)
					h.grant(t, name, "promo", 10, time.Time{}, in(5*day))
					h.spend(t, name, 6)
				}
				// The first pages of a producer may have nothing in them: it dies at a later one each time.
				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s", crashEnv, step, round+1, h.url))
				child.Stderr = os.Stderr
				var exit *exec.ExitError
				require.ErrorAs(t, child.Run(), &exit)
				require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "it must die at its step")
			}
			h.produce(t)
			require.Eventually(t, func() bool {
				return len(h.told(t, events.TypeExpiring)) >= rounds*accounts
			}, 20*time.Second, 10*time.Millisecond)
			for _, kind := range []string{events.TypeGranted, events.TypeLow, events.TypeExpiring} {
				require.Len(t, h.told(t, kind), rounds*accounts, kind)
			}
			h.requireDense(t)
		})
	}
}

// A reader that goes on after the last id it saw misses nothing, whatever several producers do meanwhile, and ids show
// up in their order.
func TestReaderMissesNothingWhileProducersCompete(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{LowPercent: []int{90, 50}})
	const accounts = 8
	names := make([]string, accounts)
	for i := range names {
		names[i] = fmt.Sprintf("a%d", i)
	}
	h.account(t, names...)
	for range 3 {
		h.produce(t)
	}
	done := make(chan struct{})
	var read []int64
	var reading sync.WaitGroup
	reading.Go(func() {
		after := int64(0)
		for last := false; ; {
			page, err := h.feed.Events(context.Background(), events.Query{After: after, Limit: 7})
			if err != nil {
				t.Error(err)
				return
			}
			for _, e := range page.Events {
				read = append(read, e.ID)
			}
			after = page.Next
			if last && len(page.Events) == 0 {
				return
			}
			select {
			case <-done:
				last = true
			default:
			}
		}
	})
	var working sync.WaitGroup
	for _, name := range names {
		working.Go(func() {
			for range 5 {
				h.grant(t, name, "promo", 10, time.Time{}, time.Time{})
				h.spend(t, name, 10)
			}
		})
	}
	working.Wait()
	require.Len(t, h.told(t, events.TypeGranted), 5*accounts)
	close(done)
	reading.Wait()
	h.requireDense(t)
	for i, id := range read {
		require.Equal(t, int64(i+1), id, "the reader saw %v", read)
	}
	require.Equal(t, [][]any{{int64(len(read))}}, h.query(t, `SELECT last FROM creditgate.event_head`))
}

// An insert that takes long keeps later ones from being seen before it.
func TestSlowInsertIsNotOvertaken(t *testing.T) {
	t.Parallel()
	h := newHouse(t, policy.Notices{})
	conn, err := pgx.Connect(t.Context(), h.url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT last FROM creditgate.event_head FOR UPDATE`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO creditgate.event (id, account, product, type, at, data, dedupe)
		VALUES (1, 'slow', 'studio', 'credits.granted', now(), '{}', 'slow')`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE creditgate.event_head SET last = 1`)
	require.NoError(t, err)

	h.produce(t)
	h.account(t, "ada")
	h.grant(t, "ada", "promo", meter.Credits(1), time.Time{}, time.Time{})
	require.Eventually(t, func() bool { // the producer waits for the row
		return h.query(t, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'creditgate events'
			AND wait_event_type = 'Lock' AND datname = current_database()`)[0][0].(int64) == 1
	}, 20*time.Second, 10*time.Millisecond)
	page, err := h.feed.Events(t.Context(), events.Query{Limit: 10})
	require.NoError(t, err)
	require.Equal(t, events.Page{Events: []events.Event{}, Next: 0}, page)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, []string{"slow", "ada"}, func() (accounts []string) {
		h.settled(t)
		page, err = h.feed.Events(t.Context(), events.Query{Limit: 10})
		require.NoError(t, err)
		for _, e := range page.Events {
			accounts = append(accounts, e.Account)
		}
		return accounts
	}())
}
