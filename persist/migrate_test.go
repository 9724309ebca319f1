package persist_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/persisttest"
)

func TestMigrationsUpDownUpWithRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.commit("ada", grant, meter.Credit, 0, meter.Note{})
	b.flush(t)
	owner := persisttest.AsOwner(t, b.url)

	require.NoError(t, persist.MigrateDown(t.Context(), owner, 1))
	require.Equal(t, [][]any{{int64(2)}}, b.query(t, `SELECT count(*) FROM creditgate.ledger_entry`), "only the views went")
	require.NoError(t, persist.Migrate(t.Context(), owner))
	require.Equal(t, [][]any{{int64(2)}}, b.query(t, `SELECT count(*) FROM finance.entries`))

	require.NoError(t, persist.MigrateDown(t.Context(), owner, 0))
	require.Equal(t, [][]any{{int64(0)}}, b.query(t,
		`SELECT count(*) FROM pg_namespace WHERE nspname IN ('creditgate', 'finance')`))
	require.ErrorIs(t, b.store.CheckSchema(t.Context()), persist.ErrSchema)
	require.NoError(t, persist.Migrate(t.Context(), owner))
	require.NoError(t, b.store.CheckSchema(t.Context()))
	require.NoError(t, b.store.EnsureLayout(t.Context()))
}

func TestMigrationsRunAtOnce(t *testing.T) {
	t.Parallel()
	url := persisttest.Empty(t)
	var all sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		all.Go(func() { errs[i] = persist.Migrate(context.Background(), url) })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestUnmigratedDatabaseNamesTheFix(t *testing.T) {
	t.Parallel()
	store, err := persist.Open(t.Context(), persisttest.Empty(t), layout, nil)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	err = store.CheckSchema(t.Context())
	require.ErrorIs(t, err, persist.ErrSchema)
	require.ErrorContains(t, err, "creditgate migrate")
}

// refused runs a statement that the role may not run.
func refused(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	_, err = conn.Exec(t.Context(), sql)
	require.ErrorContains(t, err, "42501", "%s must be refused", sql)
}

func TestLedgerIsAppendOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "ada")
	b.flush(t)
	for _, table := range []string{"ledger_record", "ledger_entry", "ledger_line"} {
		for _, sql := range []string{
			`UPDATE creditgate.` + table + ` SET pseq = 1`, `DELETE FROM creditgate.` + table,
			`TRUNCATE creditgate.` + table,
		} {
			refused(t, b.url, sql)
			refused(t, persisttest.AsOwner(t, b.url), sql) // by the trigger: a superuser may do anything else
		}
	}
	refused(t, b.url, `UPDATE creditgate.grant_lot SET credits = 1`)
	refused(t, b.url, `ALTER TABLE creditgate.ledger_line DISABLE TRIGGER ALL`)
}

func TestFinanceReadsItsViewsAndNothingElse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.addAccount(t, "ada")
	b.flush(t)
	readable := b.query(t, `SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
			AND has_schema_privilege('finance_reader', n.oid, 'USAGE')
			AND has_any_column_privilege('finance_reader', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')
		ORDER BY 1`)
	require.Equal(t, [][]any{{"finance.balances"}, {"finance.entries"}, {"finance.purchases"}, {"finance.usage_by_operation"}}, readable)

	finance := persisttest.AsFinance(t, b.url)
	require.Equal(t, [][]any{{int64(1)}}, queryAs(t, finance, `SELECT count(*) FROM finance.entries`))
	refused(t, finance, `SELECT seq FROM creditgate.ledger_entry`)
	refused(t, finance, `SELECT version FROM public.creditgate_version`)
	refused(t, finance, `DELETE FROM creditgate.grant_lot`)
	refused(t, finance, `CREATE TABLE public.mine (n int)`)
}

func TestDatabaseOfAnotherLayoutIsRefused(t *testing.T) {
	t.Parallel()
	url := persisttest.DB(t)
	persisttest.Open(t, url, meter.Layout{Number: 1, Partitions: 4})
	for _, other := range []meter.Layout{{Number: 1, Partitions: 8}, {Number: 2, Partitions: 4}} {
		store, err := persist.Open(t.Context(), url, other, nil)
		require.NoError(t, err)
		err = store.EnsureLayout(t.Context())
		store.Close()
		require.ErrorIs(t, err, persist.ErrLayout)
		require.ErrorContains(t, err, "layout 1, partitions 4")
	}
	_, err := persist.Open(t.Context(), url, meter.Layout{}, nil)
	require.ErrorIs(t, err, persist.ErrLayout)
}

func TestDatabasesAndLoginsAreMadeOnce(t *testing.T) {
	t.Parallel()
	server, url := persisttest.Private(t)
	for range 2 {
		require.NoError(t, persist.EnsureDatabase(t.Context(), server.URL("postgres"), "creditgate"))
		require.NoError(t, persist.EnsureLogin(t.Context(), server.URL("postgres"), "gateway", persist.WriterRole))
	}
	require.Equal(t, [][]any{{true, false}}, queryAs(t, persisttest.AsOwner(t, url),
		`SELECT pg_has_role('gateway', 'creditgate_writer', 'USAGE'), rolsuper FROM pg_roles WHERE rolname = 'gateway'`))
}
