package persist

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"creditgate/meter"
)

// entryKey and lineKey are the primary keys of decoded rows within one partition.
type entryKey struct {
	pseq uint64
	idx  int
}

type lineKey struct {
	entryKey

	line int
}

// ledgerRows are the decoded rows of a range of records.
type ledgerRows struct {
	entries     map[entryKey]entryRow
	lines       map[lineKey]lineRow
	quarantined map[entryKey]string // whose entries are quarantined
}

// entryRow is a row of ledger_entry beside its key: every column that the record's body decides. Credits are
// thousandths, as in the column. TestVerifyNamesEachColumn fails for a column that is missing here.
type entryRow struct {
	Kind           string   `column:"kind"`
	Account        string   `column:"account"`
	Seq            int64    `column:"seq"`
	Amount         int64    `column:"amount"`
	Subject        meter.ID `column:"subject"`
	Units          int64    `column:"units"`
	Operation      *string  `column:"operation"`
	PolicyVersion  *string  `column:"policy_version"`
	KeyID          *string  `column:"key_id"`
	Reason         *string  `column:"reason"`
	Actor          *string  `column:"actor"`
	KeyHash        []byte   `column:"key_hash"`
	KeyFingerprint []byte   `column:"key_fingerprint"`
	OccurredAt     pgMicros `column:"occurred_at"`
}

// lineRow is a row of ledger_line beside its key.
type lineRow struct {
	Kind     string   `column:"kind"`
	Grant    meter.ID `column:"grant_id"`
	Granted  int64    `column:"granted"`
	Spent    int64    `column:"spent"`
	Returned int64    `column:"returned"`
	Lapsed   int64    `column:"lapsed"`
	Revoked  int64    `column:"revoked"`
	Debt     int64    `column:"debt"`
}

func entryRowOf(e *meter.Entry, occurredMs int64) entryRow {
	n := &e.Note
	row := entryRow{
		Kind: e.Kind.String(), Account: e.Account, Seq: int64(e.Seq), Amount: int64(e.Amount), Subject: e.ID,
		Units: int64(e.Units), Operation: orNull(n.Operation), PolicyVersion: orNull(n.PolicyVersion), KeyID: orNull(n.KeyID),
		Reason: orNull(n.Reason), Actor: orNull(n.Actor), OccurredAt: pgMicros(occurredMs * 1000),
	}
	if n.Key != nil {
		row.KeyHash, row.KeyFingerprint = n.Key.Hash[:], n.Key.Fingerprint[:]
	}
	return row
}

func lineRowOf(kind meter.Kind, l *meter.Line) lineRow {
	return lineRow{
		Kind: kind.String(), Grant: l.Grant, Granted: int64(l.Granted), Spent: int64(l.Spent), Returned: int64(l.Returned),
		Lapsed: int64(l.Lapsed), Revoked: int64(l.Revoked), Debt: int64(l.Debt),
	}
}

// orNull is an empty text as the flusher writes it.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// pgMicros is a timestamp as Postgres keeps it, in Unix microseconds: a change below a millisecond shows too.
type pgMicros int64

// microsOf is a timestamp that was read. The flusher never writes infinity, so it is a drift, and not an error that hides others.
func microsOf(t pgtype.Timestamptz) pgMicros {
	switch t.InfinityModifier {
	case pgtype.Infinity:
		return math.MaxInt64
	case pgtype.NegativeInfinity:
		return math.MinInt64
	default:
		return pgMicros(t.Time.UnixMicro())
	}
}

func (m pgMicros) String() string {
	switch m {
	case math.MaxInt64:
		return "infinity"
	case math.MinInt64:
		return "-infinity"
	default:
		return time.UnixMicro(int64(m)).UTC().Format(time.RFC3339Nano)
	}
}

// difference is a column in which two rows differ.
type difference struct{ column, want, have string }

// differences lists the columns in which two rows of one type differ, by the names in their tags.
func differences(want, have any) (out []difference) {
	if reflect.DeepEqual(want, have) {
		return nil
	}
	a, b := reflect.ValueOf(want), reflect.ValueOf(have)
	for i := range a.NumField() {
		if x, y := a.Field(i).Interface(), b.Field(i).Interface(); !reflect.DeepEqual(x, y) {
			out = append(out, difference{a.Type().Field(i).Tag.Get("column"), shown(x), shown(y)})
		}
	}
	return out
}

// shown is a column's value for people.
func shown(v any) string {
	switch v := v.(type) {
	case *string:
		if v == nil {
			return "NULL"
		}
		return *v
	case []byte:
		if v == nil {
			return "NULL"
		}
		return hex.EncodeToString(v)
	default:
		return fmt.Sprint(v)
	}
}

// rows reads what is stored decoded of the records from one pseq to another.
func (v *chainVerifier) rows(ctx context.Context, from, to uint64) (*ledgerRows, error) {
	out := &ledgerRows{entries: map[entryKey]entryRow{}, lines: map[lineKey]lineRow{}, quarantined: map[entryKey]string{}}
	if err := v.quarantined(ctx, from, to, out); err != nil {
		return nil, err
	}
	rows, err := v.tx.Query(ctx, `SELECT pseq, idx, kind, account, seq, amount, subject, units, operation, policy_version,
			key_id, reason, actor, key_hash, key_fingerprint, occurred_at
		FROM creditgate.ledger_entry WHERE layout = $1 AND partition = $2 AND pseq BETWEEN $3 AND $4`,
		int(v.layout), int(v.partition), from, to)
	if err != nil {
		return nil, err
	}
	var e entryRow
	var occurred pgtype.Timestamptz
	var at lineKey
	_, err = pgx.ForEachRow(rows, []any{
		&at.pseq, &at.idx, &e.Kind, &e.Account, &e.Seq, &e.Amount, (*[16]byte)(&e.Subject), &e.Units, &e.Operation,
		&e.PolicyVersion, &e.KeyID, &e.Reason, &e.Actor, &e.KeyHash, &e.KeyFingerprint, &occurred,
	}, func() error {
		row := e
		row.OccurredAt = microsOf(occurred)
		row.KeyHash, row.KeyFingerprint = bytes.Clone(e.KeyHash), bytes.Clone(e.KeyFingerprint)
		out.entries[at.entryKey] = row
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = v.tx.Query(ctx, `SELECT pseq, idx, line, kind, grant_id, granted, spent, returned, lapsed, revoked, debt
		FROM creditgate.ledger_line WHERE layout = $1 AND partition = $2 AND pseq BETWEEN $3 AND $4`,
		int(v.layout), int(v.partition), from, to)
	if err != nil {
		return nil, err
	}
	var l lineRow
	_, err = pgx.ForEachRow(rows, []any{
		&at.pseq, &at.idx, &at.line, &l.Kind, (*[16]byte)(&l.Grant), &l.Granted, &l.Spent, &l.Returned, &l.Lapsed,
		&l.Revoked, &l.Debt,
	}, func() error {
		out.lines[at] = l
		return nil
	})
	return out, err
}

// quarantined reads which entries are quarantined.
func (v *chainVerifier) quarantined(ctx context.Context, from, to uint64, out *ledgerRows) error {
	rows, err := v.tx.Query(ctx, `SELECT pseq, idx, account FROM creditgate.quarantined_entry
		WHERE layout = $1 AND partition = $2 AND pseq BETWEEN $3 AND $4`, int(v.layout), int(v.partition), from, to)
	if err != nil {
		return err
	}
	var at entryKey
	var account string
	_, err = pgx.ForEachRow(rows, []any{&at.pseq, &at.idx, &account}, func() error {
		out.quarantined[at] = account
		return nil
	})
	return err
}
