package persist_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// A session that began while the database was read-only stays so after that was lifted.
func TestFlusherLeavesAReadOnlySession(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	var out log
	reg := prometheus.NewRegistry()
	f := persist.NewFlusher(b.store, b.ledger, persist.FlushOptions{Wait: 20 * time.Millisecond}, reg, zerolog.New(&out))
	b.readOnly(t, `ALTER DATABASE %s SET default_transaction_read_only = on`)
	b.commit("ada", grant, meter.Credit, 0, meter.Note{})
	inBackground(t, f.Run)
	require.Eventually(t, func() bool { return strings.Count(out.String(), "25006") >= 8 }, 30*time.Second, 10*time.Millisecond,
		"the flusher must go on trying")
	b.readOnly(t, `ALTER DATABASE %s RESET default_transaction_read_only`)
	b.awaitFlushed(t)
	require.Zero(t, gauge(t, reg, "creditgate_flush_stopped"), "a read-only database is no broken ledger")
	for line := range strings.Lines(out.String()) {
		var entry struct {
			Retry float64 `json:"retry_in"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		require.LessOrEqual(t, entry.Retry, 2000.0, "it must be noticed within 2 s that the failure is over")
	}
}

// A gateway that lost the lead shows no lag: the gateway that leads does, and this one would show a growing lag for ever.
func TestFollowerShowsNoLag(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	reg := prometheus.NewRegistry()
	f := persist.NewFlusher(b.store, b.ledger, persist.FlushOptions{Wait: 20 * time.Millisecond}, reg, zerolog.Nop())
	b.readOnly(t, `ALTER DATABASE %s SET default_transaction_read_only = on`)
	b.commit("ada", grant, meter.Credit, 0, meter.Note{})
	inBackground(t, f.Run)
	lag := func() float64 { return gauge(t, reg, "creditgate_ledger_lag_seconds") }
	require.Eventually(t, func() bool { return lag() > 0 }, 30*time.Second, 10*time.Millisecond)
	other, err := pgx.Connect(t.Context(), persisttest.AsOwner(t, b.url))
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	_, err = other.Exec(t.Context(), `SELECT pg_advisory_lock($1, 0)`, persist.LockClass+int(layout.Number))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return lag() == 0 && gauge(t, reg, "creditgate_ledger_pending") == 0
	}, 30*time.Second, 10*time.Millisecond)
}

// A connection of the pool that is read-only is not used again.
func TestAdminLeavesAReadOnlySession(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.putAccount(t, "ada")
	b.readOnly(t, `ALTER DATABASE %s SET default_transaction_read_only = on`)
	b.store.Pool().Reset()
	b.pools(t, 1)
	grant := persist.NewGrant{Account: "ada", Bucket: "promo", Credits: meter.Credit, Ref: "one"}
	_, err := b.admin.Grant(t.Context(), grant)
	require.ErrorIs(t, err, persist.ErrUnavailable)
	b.readOnly(t, `ALTER DATABASE %s RESET default_transaction_read_only`)
	_, err = b.admin.Grant(t.Context(), grant)
	require.NoError(t, err)
}

// pools keeps n connections made now.
func (b *bundle) pools(t *testing.T, n int) {
	t.Helper()
	for range n {
		conn, err := b.store.Pool().Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
	}
}

func (b *bundle) readOnly(t *testing.T, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), persisttest.AsOwner(t, b.url))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	_, err = conn.Exec(t.Context(), `SET default_transaction_read_only = off`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), fmt.Sprintf(sql, pgx.Identifier{conn.Config().Database}.Sanitize()))
	require.NoError(t, err)
}

func TestFailuresThatEndByThemselves(t *testing.T) {
	t.Parallel()
	for code, ends := range map[string]bool{
		"25006": true, "25P03": true, "25P04": true, // read-only, too slow
		"08000": true, "08006": true, "08P01": true, // the connection
		"53000": true, "53100": true, "53200": true, "53300": true, "53400": true, // resources
		"57000": true, "57014": true, "57P01": true, "57P02": true, "57P03": true, "57P05": true, // an operator
		"58000": true, "58030": true, // the system
		"40001": true, "40P01": true, "40003": true, // what ran beside it
		"55006": true, "55P03": true, "55000": true,
		"22003": false, "22P02": false, "23505": false, "23503": false, "23514": false, // what was asked
		"42501": false, "42P01": false, "25001": false, "28P01": false, "XX001": false,
	} {
		require.Equal(t, ends, persist.Unavailable(&pgconn.PgError{Code: code}), code)
		require.Equal(t, ends, persist.Unavailable(fmt.Errorf("flush: %w", &pgconn.PgError{Code: code})), code)
	}
}
