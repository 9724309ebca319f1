package persist_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/policy"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// purchaseCrashEnv makes the test binary play a gateway that sells one pack and stops at a cut, until it is killed or
// told to go on: "<cut> <redis url> <postgres url>".
const purchaseCrashEnv = "PERSIST_TEST_PURCHASE_CRASH"

// cut is a moment of a purchase. Those within the transaction are triggers that wait for gateLock; at the others the
// gateway itself waits.
type cut struct {
	name    string
	trigger string // on what the transaction does there; "" outside of it
	durable bool   // Postgres has the purchase although the gateway dies here
}

// cuts are all of them, in order.
func cuts() []cut {
	return []cut{
		{"locked", `CREATE TRIGGER gate BEFORE INSERT ON creditgate.grant_lot FOR EACH ROW EXECUTE FUNCTION public.gate()`, false},
		{"inserted", `CREATE TRIGGER gate AFTER INSERT ON creditgate.purchase FOR EACH ROW EXECUTE FUNCTION public.gate()`, false},
		{"committing", `CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON creditgate.purchase DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION public.gate()`, true}, // nobody hears of the COMMIT
		{"committed", "", true},
		{"applied", "", true},
		{"answered", "", true}, // and not flushed
		{"copied", "", true},
		{"flushed", "", true},
	}
}

const (
	gateLock     = 4711
	gateFunction = `CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; END'`
	gateReached = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
)

// What the gateway says to the test, each on its line.
const (
	saidAt       = "at the cut"
	saidAnswered = "answered"
)

// stopper is where a gateway stops once.
type stopper struct{ at string }

func (s stopper) reach(cut string) {
	if s.at != cut {
		return
	}
	_, _ = fmt.Fprintln(os.Stdout, saidAt)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// cutEngine stops before and after Redis has the grant.
type cutEngine struct {
	*meter.Engine
	stopper
}

func (e cutEngine) Grant(ctx context.Context, c meter.GrantChange) (meter.Decision, error) {
	e.reach("committed")
	d, err := e.Engine.Grant(ctx, c)
	e.reach("applied")
	return d, err
}

// crashPurchase sells one pack, and flushes afterwards where the cut is in that.
func crashPurchase() {
	if err := purchaseUntilKilled(strings.Fields(os.Getenv(purchaseCrashEnv))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func purchaseUntilKilled(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := persist.Open(ctx, args[2], layout, nil)
	if err != nil {
		return err
	}
	engine, err := newEngine(store, args[1], new(meter.Clock), zerolog.Nop())
	if err != nil {
		return err
	}
	go func() { _ = engine.Run(ctx) }()
	rules, err := policy.Parse("foundry.yaml", []byte(foundryPolicy))
	if err != nil {
		return err
	}
	at := stopper{args[0]}
	admin := persist.NewAdmin(store, cutEngine{engine, at}, policy.NewCatalog(map[string]*policy.Policy{"foundry": rules}),
		zerolog.Nop())
	if _, err := admin.Purchase(ctx, crashedPurchase()); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, saidAnswered)
	at.reach("answered")
	steps := map[persist.Step]string{persist.StepCopied: "copied", persist.StepCommitted: "flushed"}
	persist.NewFlusher(store, engine.Ledger(), persist.FlushOptions{
		Wait: 20 * time.Millisecond, OnStep: func(_ uint16, step persist.Step) { at.reach(steps[step]) },
	}, prometheus.NewRegistry(), zerolog.Nop()).Run(ctx)
	return nil
}

func crashedPurchase() persist.NewPurchase {
	return persist.NewPurchase{Account: "ada", Pack: "open", Quantity: 20, Ref: "order-1"}
}

// seller is the gateway that is killed, as the test sees it.
type seller struct {
	process *exec.Cmd
	in      io.WriteCloser
	said    chan string // is closed when it has ended
}

func (h *house) startSeller(t *testing.T, at string) *seller {
	t.Helper()
	s := &seller{process: exec.Command(os.Args[0]), said: make(chan string)}
	s.process.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", purchaseCrashEnv, at, h.redis.URL(), h.url))
	s.process.Stderr = os.Stderr
	out, err := s.process.StdoutPipe()
	require.NoError(t, err)
	s.in, err = s.process.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, s.process.Start())
	go func() {
		defer close(s.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.said <- lines.Text()
		}
	}()
	t.Cleanup(func() { s.kill() })
	return s
}

// kill is kill -9. It reports whether the gateway answered in time.
func (s *seller) kill() (answered bool) {
	_ = s.process.Process.Kill()
	for line := range s.said {
		answered = answered || line == saidAnswered
	}
	_ = s.process.Wait()
	return answered
}

// await waits for what the gateway says, and reports whether it answered before.
func (s *seller) await(t *testing.T, what string) (answered bool) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case line, runs := <-s.said:
			require.True(t, runs, "it ended before it said %q", what)
			if answered = answered || line == saidAnswered; line == what {
				return answered
			}
		case <-deadline:
			require.FailNow(t, "the gateway does not get there", what)
		}
	}
}

// gate holds back the transaction where trigger stands, until open is called.
func (h *house) gate(t *testing.T, trigger string) (open func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), persisttest.AsOwner(t, h.url))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for _, sql := range []string{gateFunction, trigger, fmt.Sprintf("SELECT pg_advisory_lock(%d)", gateLock)} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	return func() {
		_, err := conn.Exec(context.Background(), fmt.Sprintf("SELECT pg_advisory_unlock(%d)", gateLock))
		require.NoError(t, err)
	}
}

// A purchase that was answered is granted once and needs no repeat, and one that was not is granted once when it is
// repeated, whatever is killed at whichever moment.
func TestPurchaseKilledAtEachCut(t *testing.T) {
	t.Parallel()
	for _, c := range cuts() {
		for _, victims := range []string{"gateway", "redis", "gateway and redis"} {
			t.Run(c.name+"/"+victims, func(t *testing.T) {
				t.Parallel()
				h := newHouse(t)
				product := "foundry"
				_, err := h.admin.PutAccount(t.Context(), persist.AccountChange{Account: "ada", Product: &product})
				require.NoError(t, err)
				answered, durable := h.killAt(t, c, strings.Contains(victims, "gateway"), strings.Contains(victims, "redis"))
				h.requireBoughtOnce(t, answered, durable)
			})
		}
	}
}

// killAt kills at the cut, in the order of the parameters. What is not killed goes on while the other is away, and then
// dies in its turn; Redis comes back with what it had.
func (h *house) killAt(t *testing.T, c cut, gateway, redis bool) (answered, durable bool) {
	t.Helper()
	goOn := func() {}
	if c.trigger != "" {
		goOn = h.gate(t, c.trigger)
	}
	s := h.startSeller(t, c.name)
	if c.trigger != "" {
		require.Eventually(t, func() bool { return h.query(t, gateReached)[0][0] == int64(1) }, time.Minute, 5*time.Millisecond)
	} else {
		answered = s.await(t, saidAt)
		goOn = func() { _, _ = io.WriteString(s.in, "\n") }
	}
	if redis {
		require.NoError(t, h.redis.Kill())
	}
	if gateway {
		answered = s.kill() || answered
	}
	goOn()
	if !gateway && !answered {
		answered = s.await(t, saidAnswered)
		require.True(t, answered, "the sale does not need Redis")
	}
	if redis {
		require.NoError(t, h.redis.Restart(t.Context()))
	}
	s.kill()
	return answered, c.durable || !gateway
}

// requireBoughtOnce lets another gateway take over, and counts what was granted.
func (h *house) requireBoughtOnce(t *testing.T, answered, durable bool) {
	t.Helper()
	h.startEngine(t)
	h.sell(t, "")
	if durable {
		require.Eventually(t, func() bool { // a COMMIT under way ends without the one who asked for it
			return h.query(t, `SELECT count(*) FROM creditgate.purchase`)[0][0] == int64(1)
		}, 20*time.Second, 5*time.Millisecond)
	} else {
		require.False(t, answered)
		_, err := h.admin.PurchaseState(t.Context(), "order-1")
		require.ErrorIs(t, err, persist.ErrNoPurchase)
	}
	h.startFlusher(t)
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	sweeper := persist.NewSweeper(h.admin, h.engine.Ledger(), persist.SweepOptions{
		Every: 10 * time.Millisecond, Pending: time.Millisecond,
	}, prometheus.NewRegistry(), log)
	inBackground(t, sweeper.Run)
	credits := func() int64 {
		return h.query(t, `SELECT coalesce(sum(amount), 0)::bigint FROM creditgate.ledger_entry WHERE kind = 'grant'`)[0][0].(int64)
	}
	const bought = 10 * meter.Credit
	if durable {
		require.Eventually(t, func() bool { return credits() == int64(bought) }, 30*time.Second, 5*time.Millisecond,
			"what is in Postgres is granted, and nobody asked again")
	}
	for n := range 3 {
		var s persist.PurchaseState
		require.Eventually(t, func() bool {
			var err error
			s, err = h.admin.Purchase(context.Background(), crashedPurchase())
			return !errors.Is(err, persist.ErrUnavailable) && s.Applied
		}, 30*time.Second, 5*time.Millisecond)
		require.Equal(t, persist.PurchaseGranted, s.State)
		require.True(t, s.Repeated || n == 0 && !durable)
		require.Equal(t, bought, h.available(t, "ada"))
	}
	require.Eventually(t, func() bool { return credits() == int64(bought) }, 30*time.Second, 5*time.Millisecond)
	h.conserved(t)
	require.Equal(t, [][]any{{int64(1), int64(1), int64(1)}}, h.query(t, `SELECT (SELECT count(*) FROM creditgate.purchase),
		(SELECT count(*) FROM creditgate.grant_lot), (SELECT count(*) FROM creditgate.ledger_entry WHERE account = 'ada')`))
}
