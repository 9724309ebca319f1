package main_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// lose takes from the database what one grant left there, as a restore to an older copy does, and the cursor with it.
func lose(t *testing.T, w *world, ref string) {
	t.Helper()
	store, err := persist.Open(t.Context(), persisttest.AsOwner(t, w.database), meter.Layout{Number: 1, Partitions: 1}, nil)
	require.NoError(t, err)
	defer store.Close()
	conn, err := store.Pool().Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for _, sql := range []string{
		`CREATE TEMP TABLE lost AS SELECT e.layout, e.partition, e.pseq, e.account, e.seq, g.id FROM creditgate.ledger_entry e
			JOIN creditgate.grant_lot g ON g.id = e.subject WHERE g.external_ref = '` + ref + `'`,
		`ALTER TABLE creditgate.ledger_record DISABLE TRIGGER ALL`,
		`ALTER TABLE creditgate.ledger_entry DISABLE TRIGGER ALL`,
		`ALTER TABLE creditgate.ledger_line DISABLE TRIGGER ALL`,
		`DELETE FROM creditgate.ledger_line l USING lost WHERE l.pseq >= lost.pseq`,
		`DELETE FROM creditgate.ledger_entry e USING lost WHERE e.pseq >= lost.pseq`,
		`DELETE FROM creditgate.ledger_record r USING lost WHERE r.pseq >= lost.pseq`,
		`UPDATE creditgate.partition p SET cursor_pseq = r.pseq, cursor_epoch = r.epoch, cursor_hash = r.hash
			FROM lost JOIN creditgate.ledger_record r ON r.pseq = lost.pseq - 1 WHERE p.partition = r.partition`,
		`UPDATE creditgate.account_state a SET seq = lost.seq - 1 FROM lost WHERE a.account = lost.account`,
		`DELETE FROM creditgate.purchase p USING lost WHERE p.grant_id = lost.id`,
		`DELETE FROM creditgate.grant_state s USING lost WHERE s.grant_id = lost.id`,
		`DELETE FROM creditgate.grant_lot g USING lost WHERE g.id = lost.id`,
	} {
		tag, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
		if sql[:6] != "ALTER " && sql[:6] != "DELETE" {
			require.EqualValues(t, 1, tag.RowsAffected(), sql)
		}
	}
}

func TestLedgerBooksWhatPostgresLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(*http.Request) {})
	g := w.serve(t)
	key := g.account(t, "ada", "promo", 5, "purchased", 10)
	status, out := g.ask(t, http.MethodPost, "/v1/accounts/ada/grants", `{"bucket": "purchased", "credits": 50, "external_ref": "order-1"}`)
	require.Equal(t, http.StatusCreated, status, out)
	status, out = command(t, w.env(), "verify")
	require.Zero(t, status, out)
	status, out = command(t, w.env(), "ledger", "quarantine")
	require.Zero(t, status, out)
	require.Equal(t, "no account is quarantined\n", out)

	lose(t, w, "order-1")
	r, err := generate(t.Context(), http.DefaultClient, g.data, key)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, r.status)
	require.Eventually(t, func() bool {
		status, out = command(t, w.env(), "ledger", "quarantine")
		return status == 1
	}, patience, 10*time.Millisecond)
	found := regexp.MustCompile(`creditgate ledger book ada ([0-9a-f-]{36}) --ref ORDER`).FindStringSubmatch(out)
	require.NotNil(t, found, out)
	require.Contains(t, out, "ada grant of 50 credits")
	require.Eventually(t, func() bool {
		status, ready := g.ask(t, http.MethodGet, "/readyz", "")
		return status == http.StatusOK && strings.Contains(ready, `"quarantined_accounts":1`)
	}, patience, 10*time.Millisecond, "it serves, and says so")
	status, out = command(t, w.env(), "verify")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "creditgate ledger book ada "+found[1])

	book := []string{"ledger", "book", "ada", found[1], "--ref", "order-1", "--actor", "grace", "--reason", "restore"}
	for _, wrong := range []struct {
		flags []string
		says  string
	}{
		{nil, `bucket ""`},
		{[]string{"--bucket", "gold", "--expires-at", "never"}, "has promo, monthly, purchased"},
		{[]string{"--bucket", "purchased"}, "--expires-at is missing"},
		{[]string{"--bucket", "purchased", "--expires-at", "tomorrow"}, "write a date as 2026-12-01"},
		{[]string{"--bucket", "purchased", "--expires-at", "2001-01-01"}, "would expire before it begins"},
		{[]string{"--bucket", "purchased", "--expires-at", "never", "--net-minor", "1"}, "--net-minor needs --currency"},
	} {
		status, out = command(t, w.env(), append(slices.Clip(book), wrong.flags...)...)
		require.Equal(t, 1, status, out)
		require.Contains(t, out, wrong.says)
	}
	book = append(book, "--bucket", "purchased", "--expires-at", "2100-01-01", "--net-minor", "4500", "--currency", "EUR")
	status, out = command(t, w.env(), book...)
	require.Zero(t, status, out)
	require.Contains(t, out, "50 credits")
	require.Contains(t, out, "account ada is quarantined no more")
	status, out = command(t, w.env(), book...)
	require.Zero(t, status, out)
	require.Contains(t, out, "was booked before; nothing was changed")
	status, out = command(t, w.env(), "verify")
	require.Zero(t, status, out)
	status, out = g.ask(t, http.MethodPost, "/v1/accounts/ada/grants", `{"bucket": "purchased", "credits": 50, "external_ref": "order-1"}`)
	require.Equal(t, http.StatusConflict, status, out)
}
