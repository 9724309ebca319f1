package persist_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist"
)

// TestVerifyNamesEachColumn changes every column of the ledger, one by one, and verify names table, row, column and both
// values. The columns come from the catalogue, so a new one that verify does not compare fails here.
//
//nolint:tparallel // one database, which each case changes and puts back
func TestVerifyNamesEachColumn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grant := b.addAccount(t, "ada")
	b.commit("ada", grant, meter.Credit, meter.Credit, meter.Note{
		Operation: "apply", PolicyVersion: "v1", KeyID: "key", Reason: "because", Actor: "ada",
		Key: &meter.IdempotencyKey{Hash: [16]byte{1}, Fingerprint: [16]byte{2}},
	})
	b.commit("ada", grant, meter.Credit, 0, meter.Note{Operation: "apply"})
	b.flush(t)
	b.requireNoDrift(t)
	b.tamper(t, "SELECT")
	for _, table := range []string{"ledger_record", "ledger_entry", "ledger_line"} {
		b.query(t, fmt.Sprintf("CREATE TABLE creditgate.kept_%s AS TABLE creditgate.%s", table, table))
		for _, check := range b.query(t, `SELECT conname::text FROM pg_constraint
			WHERE conrelid = $1::text::regclass AND contype = 'c'`, "creditgate."+table) {
			b.query(t, fmt.Sprintf("ALTER TABLE creditgate.%s DROP CONSTRAINT %s", table, check[0]))
		}
		b.tamperColumns(t, table)
	}
}

// notInTheRecord are the columns that Postgres fills in by itself when it takes a record.
func notInTheRecord() []string { return []string{"recorded_at"} }

func (b *bundle) tamperColumns(t *testing.T, table string) {
	t.Helper()
	for _, c := range b.query(t, `SELECT c.column_name::text, c.data_type::text, c.is_nullable = 'YES', EXISTS (
				SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
				WHERE i.indrelid = ('creditgate.' || c.table_name)::regclass AND i.indisprimary AND a.attname = c.column_name)
			FROM information_schema.columns c WHERE c.table_schema = 'creditgate' AND c.table_name = $1
			ORDER BY c.ordinal_position`, table) {
		name, kind := c[0].(string), c[1].(string)
		if slices.Contains(notInTheRecord(), name) {
			continue
		}
		changes := otherValues(t, name, kind)
		if c[2].(bool) {
			changes = append(changes, "NULL")
		}
		for _, change := range changes {
			t.Run(table+"."+name+"="+change, func(t *testing.T) { b.tamperColumn(t, table, name, change, c[3].(bool)) })
		}
	}
}

// otherValues are SQL for other values than a column has.
func otherValues(t *testing.T, name, kind string) []string {
	t.Helper()
	switch kind {
	case "smallint", "integer", "bigint":
		return []string{name + " + 50"}
	case "text":
		return []string{name + " || 'x'"}
	case "uuid":
		return []string{"gen_random_uuid()"}
	case "bytea":
		return []string{fmt.Sprintf("set_byte(%s, 8, get_byte(%s, 8) # 1)", name, name)}
	case "timestamp with time zone":
		return []string{name + " + interval '1 month'", name + " + interval '1 microsecond'", "'infinity'"}
	}
	require.FailNow(t, "say here how a column of this type is changed", kind)
	return nil
}

func (b *bundle) tamperColumn(t *testing.T, table, column, change string, inKey bool) {
	t.Helper()
	value := func() string {
		rows := b.query(t, fmt.Sprintf("SELECT %s FROM creditgate.%s WHERE pseq = 2", column, table))
		require.Len(t, rows, 1)
		return textOf(rows[0][0])
	}
	before := value()
	b.query(t, fmt.Sprintf("UPDATE creditgate.%s SET %s = %s WHERE pseq = 2", table, column, change))
	after := ""
	if !inKey {
		after = value()
		require.NotEqual(t, before, after)
	}
	report, err := persist.Verify(t.Context(), b.store, nil)
	b.query(t, "TRUNCATE creditgate."+table)
	b.query(t, fmt.Sprintf("INSERT INTO creditgate.%s TABLE creditgate.kept_%s", table, table))
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(report.Drifts, func(d persist.Drift) bool {
		if !strings.HasPrefix(d.Where, table+" 1-00-2") || d.Kind != persist.DriftRows && d.Kind != persist.DriftChain {
			return false
		}
		switch {
		case inKey: // the row is another one now
			return strings.Contains(d.What, "missing")
		case d.Kind == persist.DriftChain: // the chain has no other copy of these
			return strings.Contains(d.What, column) && d.Want != d.Have
		}
		return d.What == column && d.Want == before && d.Have == after
	}), "%s.%s was %s and is %s:\n%s", table, column, before, after, printed(t, report))
	b.requireNoDrift(t)
}

// textOf shows a column's value as verify does.
func textOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case pgtype.InfinityModifier:
		return v.String()
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case [16]byte:
		return meter.ID(v).String()
	case []byte:
		return hex.EncodeToString(v)
	}
	return fmt.Sprint(v)
}
