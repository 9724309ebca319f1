package persist

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"creditgate/meter"
)

// partitionCursor is how far a partition claims to be flushed. Old layouts are verified like the current one.
type partitionCursor struct {
	layout, partition uint16
	claimed           uint64
	at                meter.Cursor
}

func readCursors(ctx context.Context, tx pgx.Tx) ([]partitionCursor, error) {
	rows, err := tx.Query(ctx, `SELECT layout, partition, epoch, cursor_epoch, cursor_pseq, cursor_hash
		FROM creditgate.partition ORDER BY layout, partition`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c partitionCursor, err error) {
		var hash []byte
		err = row.Scan(&c.layout, &c.partition, &c.claimed, &c.at.Epoch, &c.at.Pseq, &hash)
		copy(c.at.Hash[:], hash)
		return c, err
	})
}

// chainVerifier walks one partition's ledger, a page of records at a time.
type chainVerifier struct {
	partitionCursor

	tx     pgx.Tx
	report *Report
	prev   meter.Cursor // the record before
}

// storedRecord is a record as Postgres has it.
type storedRecord struct {
	meter.Record

	occurred pgMicros
	hash     [32]byte
}

func (v *chainVerifier) run(ctx context.Context) error {
	for {
		page, err := v.records(ctx)
		if err != nil {
			return err
		}
		to := uint64(1<<63 - 1) // rows beyond the last record belong to nothing
		if len(page) > 0 {
			to = page[len(page)-1].Pseq
		}
		rows, err := v.rows(ctx, v.prev.Pseq+1, to)
		if err != nil {
			return err
		}
		for _, rec := range page {
			v.record(rec, rows)
		}
		for at, e := range rows.entries {
			v.drift(DriftRows, e.Account, v.entryName(at), "the record has no such entry", "none", e.Kind)
		}
		for at, l := range rows.lines {
			v.drift(DriftRows, "", v.lineName(at), "the record has no such line", "none", "grant "+l.Grant.String())
		}
		if len(page) == 0 {
			break
		}
	}
	if v.prev.Position != v.at.Position || v.prev.Hash != v.at.Hash {
		v.drift(DriftChain, "", v.recordName(v.at.Pseq), "the cursor is not the last record",
			fmt.Sprintf("%s %x", v.prev.Position, v.prev.Hash), fmt.Sprintf("%s %x", v.at.Position, v.at.Hash))
	}
	return nil
}

func (v *chainVerifier) drift(kind DriftKind, account, where, what, want, have string) {
	v.report.Add(Drift{Kind: kind, Account: account, Where: where, What: what, Want: want, Have: have})
}

// recordName and its like name a row: its table and its primary key.
func (v *chainVerifier) recordName(pseq uint64) string {
	return fmt.Sprintf("ledger_record %d-%02d-%d", v.layout, v.partition, pseq)
}

func (v *chainVerifier) entryName(at entryKey) string {
	return fmt.Sprintf("ledger_entry %d-%02d-%d-%d", v.layout, v.partition, at.pseq, at.idx)
}

func (v *chainVerifier) lineName(at lineKey) string {
	return fmt.Sprintf("ledger_line %d-%02d-%d-%d line %d", v.layout, v.partition, at.pseq, at.idx, at.line)
}

// record checks one record. The next one is checked against the hash stored here, so that one change is one drift.
func (v *chainVerifier) record(rec storedRecord, rows *ledgerRows) {
	v.report.Records++
	where := v.recordName(rec.Pseq)
	if rec.Pseq != v.prev.Pseq+1 {
		v.drift(DriftChain, "", v.recordName(v.prev.Pseq+1), "records are missing", "none",
			strconv.FormatUint(rec.Pseq-v.prev.Pseq-1, 10))
	} else if want := chain(v.prev.Hash, rec.Body); want != rec.hash {
		v.drift(DriftChain, "", where, "body or hash: the hash does not follow from the record before and the body",
			hex.EncodeToString(want[:]), hex.EncodeToString(rec.hash[:]))
	}
	if rec.Epoch < v.prev.Epoch || rec.Epoch > v.claimed {
		v.drift(DriftChain, "", where, "epoch is out of order", fmt.Sprintf("%d…%d", v.prev.Epoch, v.claimed),
			strconv.FormatUint(rec.Epoch, 10))
	}
	v.prev = meter.Cursor{Position: rec.Position, Hash: rec.hash}
	decoded, err := meter.UnpackRecord(rec.Body)
	if err != nil {
		v.drift(DriftChain, "", where, "body cannot be read", "", err.Error())
		return
	}
	if want := pgMicros(decoded.OccurredMs * 1000); want != rec.occurred {
		v.drift(DriftRows, "", where, "occurred_at", want.String(), rec.occurred.String())
	}
	for i := range decoded.Entries {
		v.entry(entryKey{rec.Pseq, i}, &decoded.Entries[i], decoded.OccurredMs, rows)
	}
}

// entry compares the rows of one entry with what the record's body says, and takes them out of rows.
func (v *chainVerifier) entry(at entryKey, e *meter.Entry, occurredMs int64, rows *ledgerRows) {
	if have, ok := rows.entries[at]; ok {
		v.report.Entries++
		want := entryRowOf(e, occurredMs)
		v.columns(e.Account, v.entryName(at), want, have)
		delete(rows.entries, at)
	} else if rows.quarantined[at] == e.Account {
		return // it is booked when its account can be; verifyQuarantined names that
	} else {
		v.drift(DriftRows, e.Account, v.entryName(at), "the row is missing", e.Kind.String(), "none")
	}
	for n := range e.Lines {
		at := lineKey{at, n}
		have, ok := rows.lines[at]
		if !ok {
			v.drift(DriftRows, e.Account, v.lineName(at), "the row is missing", "grant "+e.Lines[n].Grant.String(), "none")
			continue
		}
		v.columns(e.Account, v.lineName(at), lineRowOf(e.Kind, &e.Lines[n]), have)
		delete(rows.lines, at)
	}
}

func (v *chainVerifier) columns(account, where string, want, have any) {
	for _, d := range differences(want, have) {
		v.drift(DriftRows, account, where, d.column, d.want, d.have)
	}
}

func (v *chainVerifier) records(ctx context.Context) ([]storedRecord, error) {
	rows, err := v.tx.Query(ctx, `SELECT pseq, epoch, occurred_at, body, hash FROM creditgate.ledger_record
		WHERE layout = $1 AND partition = $2 AND pseq > $3 ORDER BY pseq LIMIT $4`,
		int(v.layout), int(v.partition), v.prev.Pseq, pageRows)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (rec storedRecord, err error) {
		var hash []byte
		var occurred pgtype.Timestamptz
		err = row.Scan(&rec.Pseq, &rec.Epoch, &occurred, &rec.Body, &hash)
		rec.occurred = microsOf(occurred)
		copy(rec.hash[:], hash)
		return rec, err
	})
}

// Bodies are the records of a partition from one pseq to another, as Postgres has them.
func (s *Store) Bodies(ctx context.Context, partition uint16, from, to uint64) (map[uint64][]byte, error) {
	rows, err := s.pool.Query(ctx, `SELECT pseq, body FROM creditgate.ledger_record
		WHERE layout = $1 AND partition = $2 AND pseq BETWEEN $3 AND $4`,
		s.layoutNumber(), int(partition), int64(from), int64(to))
	if err != nil {
		return nil, storeError("read records", err)
	}
	out := map[uint64][]byte{}
	var pseq uint64
	var body []byte
	_, err = pgx.ForEachRow(rows, []any{&pseq, &body}, func() error {
		out[pseq] = bytes.Clone(body)
		return nil
	})
	return out, storeError("read records", err)
}
