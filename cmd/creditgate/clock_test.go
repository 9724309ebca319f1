package main_test

import (
	"encoding/json"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist/finance"
	"creditgate/persist/persisttest"
)

const testClock = "CREDITGATE_TEST_CLOCK=true"

type clockNow struct {
	Now      time.Time `json:"now"`
	OffsetMs int64     `json:"offset_ms"`
}

func (g *gateway) clock(t *testing.T, move string) (c clockNow) {
	t.Helper()
	method := http.MethodGet
	if move != "" {
		method = http.MethodPut
	}
	require.NoError(t, json.Unmarshal([]byte(g.must(t, method, "/v1/clock", move)), &c))
	return c
}

// lapsed sums what the ledger in Postgres says lapsed of an account.
func lapsed(t *testing.T, w *world, account string) (sum meter.Credits) {
	t.Helper()
	entries, err := finance.Entries(t.Context(), persisttest.AsFinance(t, w.database), account)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Kind == "lapse" {
			sum -= e.Credits
		}
	}
	return sum
}

// Ten years pass at once: leases end, grants lapse, outcomes and keys are dropped, and what follows goes on then.
func TestTenYearsPassAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	gateways := []*gateway{w.serve(t, testClock), w.serve(t, testClock, "CREDITGATE_JOURNAL_DIR="+t.TempDir())}
	g := gateways[0]
	key := g.account(t, "ada", "purchased", 10)
	start := g.clock(t, "")
	require.Zero(t, start.OffsetMs)
	g.must(t, "POST", "/v1/accounts/ada/grants", `{"bucket":"promo","credits":5,"external_ref":"gift","expires_at":"`+
		start.Now.AddDate(1, 0, 0).Format(time.RFC3339)+`"}`)
	client := &http.Client{}
	r, err := generate(t.Context(), client, g.data, key)
	require.NoError(t, err)
	require.Equal(t, "1", r.charged)
	g.must(t, "POST", "/v1/reservations", `{"account":"ada","credits":6,"lease_seconds":3600}`)
	require.Equal(t, balance{Available: 8, Held: 6}, g.balance(t, "ada"))

	require.EqualValues(t, 36*3600*1000, g.clock(t, `{"advance":"1d12h"}`).OffsetMs)
	require.Equal(t, balance{Available: 14}, g.balance(t, "ada"), "the lease ended, its credit is back")
	later := start.Now.AddDate(10, 0, 0)
	moved := g.clock(t, `{"now":"`+later.Format(time.RFC3339)+`"}`)
	require.WithinDuration(t, later, moved.Now, time.Minute)
	require.Equal(t, balance{Available: 10}, g.balance(t, "ada"), "the gift is over")

	for _, g := range gateways { // the other one within a second
		require.Eventually(t, func() bool {
			r, err = generate(t.Context(), client, g.data, key)
			return err == nil && r.status == http.StatusOK
		}, patience, 20*time.Millisecond, "%+v", r)
		require.WithinDuration(t, later, madeAt(t, r.reservation), time.Hour)
	}
	require.Equal(t, balance{Available: 8}, gateways[1].balance(t, "ada"))
	w.verified(t)
	require.Equal(t, 4*meter.Credit, lapsed(t, w, "ada"))
	for _, e := range entriesOf(t, w, "ada")[r.reservation] {
		require.WithinDuration(t, later, e.OccurredAt, time.Hour)
	}
}

// madeAt is when a reservation was made, by its id.
func madeAt(t *testing.T, reservation string) time.Time {
	t.Helper()
	id, err := meter.ParseReservationID(reservation)
	require.NoError(t, err)
	return time.UnixMilli(id.ID.CreatedMs())
}

func TestTimeOnlyGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t, testClock)
	_, ready := g.ask(t, "GET", "/readyz", "")
	require.Contains(t, ready, `"test_clock":"+0s"`)
	before := g.clock(t, `{"advance":"365d"}`)
	_, ready = g.ask(t, "GET", "/readyz", "")
	require.Contains(t, ready, `"test_clock":"+365d"`)
	require.Contains(t, g.must(t, "GET", "/metrics", ""), "\ncreditgate_test_clock_offset_seconds 3.1536e+07")
	for body, want := range map[string]int{
		`{"now":"2020-01-01T00:00:00Z"}`:                http.StatusConflict,
		`{"now":"2999-01-01T00:00:00Z"}`:                http.StatusConflict,
		`{"advance":"-1h"}`:                             http.StatusBadRequest,
		`{"advance":"1 day"}`:                           http.StatusBadRequest,
		`{"advance":"99999d"}`:                          http.StatusBadRequest,
		`{"advance":""}`:                                http.StatusBadRequest,
		`{"advance":"1h","now":"2027-01-01T00:00:00Z"}`: http.StatusBadRequest,
		`{}`:                 http.StatusBadRequest,
		`{"now":"tomorrow"}`: http.StatusBadRequest,
	} {
		status, answer := g.ask(t, "PUT", "/v1/clock", body)
		require.Equal(t, want, status, "%s: %s", body, answer)
	}
	require.Equal(t, before.OffsetMs, g.clock(t, "").OffsetMs)
	require.Zero(t, g.interrupt(t, syscall.SIGTERM))
	again := w.serve(t, testClock)
	require.Equal(t, before.OffsetMs, again.clock(t, "").OffsetMs, "a restart does not turn time back")
}

func TestATestDatabaseIsOneForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	status, answer := g.ask(t, "PUT", "/v1/clock", `{"advance":"1d"}`)
	require.Equal(t, http.StatusNotFound, status, answer)
	require.NotContains(t, g.must(t, "GET", "/readyz", ""), "clock")
	require.NotContains(t, g.must(t, "GET", "/metrics", ""), "test_clock")
	refused := launch(t, w.env(testClock, "CREDITGATE_JOURNAL_DIR="+t.TempDir()), "serve")
	require.Equal(t, 1, refused.wait(t))
	require.Contains(t, refused.text(), "was not begun with it")

	other := newWorld(t, nil)
	other.serve(t, testClock)
	refused = launch(t, other.env("CREDITGATE_JOURNAL_DIR="+t.TempDir()), "serve")
	require.Equal(t, 1, refused.wait(t))
	require.Contains(t, refused.text(), "was begun with CREDITGATE_TEST_CLOCK=true")
}
