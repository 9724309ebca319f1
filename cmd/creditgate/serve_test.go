package main_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"creditgate/bench/studio"
	"creditgate/meter"
	"creditgate/persist/finance"
	"creditgate/persist/persisttest"
)

// entriesOf reads an account's entries from Postgres by reservation: how it ended, what it cost.
func entriesOf(t *testing.T, w *world, account string) map[string][]finance.Entry {
	t.Helper()
	entries, err := finance.Entries(t.Context(), persisttest.AsFinance(t, w.database), account)
	require.NoError(t, err)
	out := map[string][]finance.Entry{}
	for _, e := range entries {
		if e.ReservationID != "" {
			out[e.ReservationID] = append(out[e.ReservationID], e)
		}
	}
	return out
}

// charged is what the entries of one reservation took.
func charged(entries []finance.Entry) (sum meter.Credits) {
	for _, e := range entries {
		sum -= e.Credits
	}
	return sum
}

func TestTwoGatewaysSellExactlyWhatThereIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	gateways := []*gateway{w.serve(t), w.serve(t, "CREDITGATE_JOURNAL_DIR="+t.TempDir())}
	key := gateways[0].account(t, "crowd", "promo", 50, "promo", 50, "monthly", 300, "purchased", 250, "purchased", 350)

	const clients, each = 64, 20
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	var sold, refused atomic.Int64
	var work sync.WaitGroup
	for c := range clients {
		work.Go(func() {
			for i := range each {
				r, err := generate(t.Context(), client, gateways[(c+i)%2].data, key)
				switch {
				case err == nil && r.status == http.StatusOK && r.charged == "1":
					sold.Add(1)
				case err == nil && r.status == http.StatusPaymentRequired:
					refused.Add(1)
				default:
					t.Errorf("an answer that is neither sold nor refused: %v %+v", err, r)
				}
			}
		})
	}
	work.Wait()
	require.EqualValues(t, 1000, sold.Load())
	require.EqualValues(t, clients*each-1000, refused.Load())
	require.Equal(t, balance{}, gateways[1].balance(t, "crowd"))
	w.verified(t)
	require.Len(t, entriesOf(t, w, "crowd"), 1000, "one settlement for each that was sold")
	metrics := gateways[0].must(t, "GET", "/metrics", "")
	for _, name := range []string{ // of the contract
		`requests_total{operation="generate",outcome="committed"}`, "request_duration_seconds", "overhead_seconds",
		"credits_total", "reservations_open", "ledger_lag_seconds", "ledger_pending", "breaker_state", "flush_rows_total",
		"drift_accounts", "drifts",
	} {
		require.Contains(t, metrics, "\ncreditgate_"+name)
	}
	for _, g := range gateways {
		require.NotContains(t, g.text(), key, "an API key in the log")
		require.NotContains(t, g.text(), adminToken, "the admin token in the log")
	}
}

func TestGatewayKilledUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(*http.Request) {
		<-time.After(20 * time.Millisecond) // work, so that many requests are under way at the kill
	})
	short := []string{"CREDITGATE_UPSTREAM_TIMEOUT=2s", "CREDITGATE_LEASE_MARGIN=1s"}
	const lease = 2*time.Second + 2*time.Second + time.Second // with the settle budget
	victim := w.serve(t, short...)
	key := victim.account(t, "load", "purchased", 100_000)

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	var mu sync.Mutex
	var delivered []reply
	enough := make(chan struct{})
	var work sync.WaitGroup
	for range 32 {
		work.Go(func() {
			for {
				r, err := generate(t.Context(), client, victim.data, key)
				if err != nil {
					return // the gateway is gone
				}
				mu.Lock()
				if r.status == http.StatusOK {
					if delivered = append(delivered, r); len(delivered) == 300 {
						close(enough)
					}
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(patience):
		require.FailNow(t, "there is no load", victim.text())
	}
	victim.kill()
	killed := time.Now()
	work.Wait()

	heir := w.serve(t, short...) // with the same journal
	require.Eventually(t, func() bool { return heir.balance(t, "load").Held == 0 },
		time.Until(killed.Add(lease+5*time.Second)), 20*time.Millisecond, "held 0 within lease + 5 s")
	w.verified(t)
	entries := entriesOf(t, w, "load")
	for _, r := range delivered {
		require.Equal(t, meter.Credit, charged(entries[r.reservation]), "a response that was received whole is charged: %+v", r)
	}
	t.Logf("%d delivered, %d settled", len(delivered), len(entries))
}

// The gateway has forwarded the request when Redis stops. The client gets its picture, and pays for it once.
func TestRedisStopsAtCommit(t *testing.T) {
	t.Parallel()
	for name, revive := range map[string]func(t *testing.T, w *world){
		"paused": func(t *testing.T, w *world) { t.Helper(); require.NoError(t, w.redis.Resume()) },
		"killed": func(t *testing.T, w *world) {
			t.Helper()
			require.NoError(t, w.redis.Kill())
			require.NoError(t, w.redis.Restart(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked, release := make(chan struct{}), make(chan struct{})
			w := newWorld(t, func(*http.Request) {
				close(asked)
				<-release
			})
			g := w.serve(t)
			key := g.account(t, "unlucky", "purchased", 10)
			got := make(chan reply, 1)
			go func() {
				r, err := generate(t.Context(), http.DefaultClient, g.data, key)
				if err != nil {
					t.Error(err)
				}
				got <- r
			}()
			<-asked
			require.NoError(t, w.redis.Pause())
			close(release)
			r := <-got
			require.Equal(t, http.StatusOK, r.status, r.body)
			require.Equal(t, "1", r.charged)
			require.Equal(t, "1", g.metric(t, "creditgate_journal_pending"))

			revive(t, w)
			require.Eventually(t, func() bool {
				status, answer := g.ask(t, "GET", "/v1/accounts/unlucky/balance", "")
				var b balance
				return status == http.StatusOK && json.Unmarshal([]byte(answer), &b) == nil && b == balance{Available: 9}
			}, patience, 20*time.Millisecond, "the journal settles it")
			w.verified(t)
			require.Equal(t, meter.Credit, charged(entriesOf(t, w, "unlucky")[r.reservation]))
		})
	}
}

// SIGTERM lets the request in flight end, and its charge reach Postgres.
func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(*http.Request) {
		close(asked)
		<-release
	})
	g := w.serve(t)
	key := g.account(t, "patient", "purchased", 10)
	got := make(chan reply, 1)
	go func() {
		r, err := generate(t.Context(), http.DefaultClient, g.data, key)
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	<-asked
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGTERM))
	g.await(t, "that it shuts down", func(line string) bool { return containsAll(line, "shutting down") })
	close(release)
	r := <-got
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.Zero(t, g.wait(t), g.text())
	require.Equal(t, meter.Credit, charged(entriesOf(t, w, "patient")[r.reservation]), "flushed before the process ended")
}

// A second signal ends the process whatever is in flight.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(*http.Request) {
		close(asked)
		<-release
	})
	defer close(release)
	g := w.serve(t)
	key := g.account(t, "hurried", "purchased", 10)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := generate(ctx, http.DefaultClient, g.data, key)
		gone <- err
	}()
	<-asked
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGTERM))
	g.await(t, "that it shuts down", func(line string) bool { return containsAll(line, "shutting down") })
	require.Equal(t, 128+int(syscall.SIGTERM), g.interrupt(t, syscall.SIGTERM), "ended by the signal")
	cancel()
	require.Error(t, <-gone)
}

// Postgres is away: what is loaded is served, and the ledger follows when it returns.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	server, database := persisttest.Private(t)
	w.database = database
	g := w.serve(t)
	key := g.account(t, "steady", "purchased", 10)
	one := func(g *gateway) {
		r, err := generate(t.Context(), http.DefaultClient, g.data, key)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.status, r.body)
	}
	one(g)
	require.NoError(t, server.Kill())
	one(g)
	status, _ := g.ask(t, "GET", "/readyz", "")
	require.Equal(t, http.StatusOK, status)

	// Another gateway starts meanwhile: Redis has the partitions, that is enough to be ready.
	late := w.serve(t, "CREDITGATE_JOURNAL_DIR="+t.TempDir())
	require.Contains(t, late.text(), "starting without Postgres")
	status, out := command(t, w.env(), "verify")
	require.Equal(t, 2, status, "could not check: %s", out)

	require.NoError(t, server.Restart(t.Context()))
	w.verified(t)
	one(late)
	w.verified(t)
	require.Equal(t, balance{Available: 7}, g.balance(t, "steady"))
}

// The official client of OpenAI's API generates through the gateway, and reads a refusal as an API error.
func TestOpenAIClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := studio.New(studio.Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown(context.WithoutCancel(t.Context())))
		require.NoError(t, <-served)
	})
	g := w.serve(t, "CREDITGATE_UPSTREAM=http://"+l.Addr().String())
	key := g.account(t, "painter", "purchased", 2)

	client := openai.NewClient(option.WithBaseURL(g.data+"/v1/"), option.WithAPIKey(key))
	ask := openai.ImageGenerateParams{
		Prompt: "a red bicycle by the sea", N: openai.Int(2), Size: "256x256",
		ResponseFormat: openai.ImageGenerateParamsResponseFormatB64JSON,
	}
	images, err := client.Images.Generate(t.Context(), ask)
	require.NoError(t, err)
	require.Len(t, images.Data, 2)
	for _, image := range images.Data {
		picture, err := base64.StdEncoding.DecodeString(image.B64JSON)
		require.NoError(t, err)
		require.Equal(t, "\x89PNG", string(picture[:4]))
	}
	_, err = client.Images.Generate(t.Context(), ask)
	var refusal *openai.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusPaymentRequired, refusal.StatusCode)
	require.Equal(t, "insufficient-credits", refusal.Code)
	require.Equal(t, "insufficient_quota", refusal.Type)
	require.Contains(t, refusal.Message, "2 credits are needed, 0 available")
	require.EqualValues(t, 1, s.Calls("POST /v1/images/generations"), "a refused request does not reach the backend, nor is it repeated")
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	status, out := command(t, w.env("CREDITGATE_LISTEN="+l.Addr().String()), "serve")
	require.Equal(t, 1, status)
	require.Contains(t, out, "listen: "+l.Addr().String()+" is taken by another program")
}

func TestWrongDatabaseStopsServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.database = persisttest.Empty(t)
	status, out := command(t, w.env(), "serve")
	require.Equal(t, 1, status)
	require.Contains(t, out, "run `creditgate migrate`")

	status, out = command(t, []string{"CREDITGATE_MIGRATE_URL=" + w.database}, "migrate", "status")
	require.Zero(t, status, out)
	require.Contains(t, out, "schema version 0;")
	status, out = command(t, []string{"CREDITGATE_MIGRATE_URL=" + w.database}, "migrate")
	require.Zero(t, status, out)
	g := w.serve(t)
	require.Zero(t, g.interrupt(t, syscall.SIGTERM), g.text())

	status, out = command(t, w.env("CREDITGATE_PARTITIONS=8"), "serve")
	require.Equal(t, 1, status)
	require.Contains(t, out, "the database has layout 1, partitions 1; this gateway is set to layout 1, partitions 8")
	status, out = command(t, []string{"CREDITGATE_MIGRATE_URL=" + w.database}, "migrate", "down", "0")
	require.Zero(t, status, out)
	require.Contains(t, out, "schema version 0;")
}
