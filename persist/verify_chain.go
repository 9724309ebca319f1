package persist

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

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

	hash [32]byte
}

func (v *chainVerifier) run(ctx context.Context) error {
	for {
		page, err := v.records(ctx)
		if err != nil {
			return err
		}
		to := uint64(1<<63 - 1) // entries beyond the last record belong to nothing
		if len(page) > 0 {
			to = page[len(page)-1].Pseq
		}
		entries, err := v.entries(ctx, v.prev.Pseq+1, to)
		if err != nil {
			return err
		}
		for _, rec := range page {
			v.record(rec, entries[rec.Pseq])
			delete(entries, rec.Pseq)
		}
		for pseq, es := range entries {
			v.drift(pseq, es[0].Account, "entries without a record", "none", strconv.Itoa(len(es)))
		}
		if len(page) == 0 {
			break
		}
	}
	if v.prev.Position != v.at.Position || v.prev.Hash != v.at.Hash {
		v.drift(v.at.Pseq, "", "the cursor is not the last record",
			fmt.Sprintf("%s %x", v.prev.Position, v.prev.Hash[:4]), fmt.Sprintf("%s %x", v.at.Position, v.at.Hash[:4]))
	}
	return nil
}

func (v *chainVerifier) drift(pseq uint64, account, what, want, have string) {
	where := fmt.Sprintf("record %d-%02d-%d", v.layout, v.partition, pseq)
	v.report.add(Drift{Account: account, Where: where, What: what, Want: want, Have: have})
}

// record checks one record. What follows is checked against what is stored here, so that one change is one drift.
func (v *chainVerifier) record(rec storedRecord, entries []meter.Entry) {
	v.report.Records++
	v.report.Entries += len(entries)
	if rec.Pseq != v.prev.Pseq+1 {
		v.drift(v.prev.Pseq+1, "", "records are missing", "none", strconv.FormatUint(rec.Pseq-v.prev.Pseq-1, 10))
	} else if want := chain(v.prev.Hash, rec.Body); want != rec.hash {
		v.drift(rec.Pseq, "", "the hash does not follow from the record before and the body",
			hex.EncodeToString(want[:4]), hex.EncodeToString(rec.hash[:4]))
	}
	if rec.Epoch < v.prev.Epoch || rec.Epoch > v.claimed {
		v.drift(rec.Pseq, "", "epoch out of order", fmt.Sprintf("%d…%d", v.prev.Epoch, v.claimed), strconv.FormatUint(rec.Epoch, 10))
	}
	v.prev = meter.Cursor{Position: rec.Position, Hash: rec.hash}
	decoded, err := meter.UnpackRecord(rec.Body)
	if err != nil {
		v.drift(rec.Pseq, "", "the body cannot be read", "", err.Error())
		return
	}
	if decoded.OccurredMs != rec.OccurredMs {
		v.drift(rec.Pseq, "", "occurred_at", fromMs(decoded.OccurredMs).Format(time.RFC3339Nano),
			fromMs(rec.OccurredMs).Format(time.RFC3339Nano))
	}
	for i := range max(len(decoded.Entries), len(entries)) {
		switch {
		case i >= len(entries):
			v.drift(rec.Pseq, decoded.Entries[i].Account, fmt.Sprintf("entry %d is missing", i), "there", "")
		case i >= len(decoded.Entries):
			v.drift(rec.Pseq, entries[i].Account, fmt.Sprintf("entry %d is not in the body", i), "", "there")
		case !reflect.DeepEqual(decoded.Entries[i], entries[i]):
			want, have := difference(decoded.Entries[i], entries[i])
			v.drift(rec.Pseq, decoded.Entries[i].Account, fmt.Sprintf("entry %d differs from the body", i), want, have)
		}
	}
}

// difference shows the first field in which two entries differ.
func difference(want, have meter.Entry) (string, string) {
	a, b := reflect.ValueOf(want), reflect.ValueOf(have)
	for i := range a.NumField() {
		if x, y := a.Field(i).Interface(), b.Field(i).Interface(); !reflect.DeepEqual(x, y) {
			name := a.Type().Field(i).Name
			return fmt.Sprintf("%s %+v", name, x), fmt.Sprintf("%s %+v", name, y)
		}
	}
	return "", ""
}

func (v *chainVerifier) records(ctx context.Context) ([]storedRecord, error) {
	rows, err := v.tx.Query(ctx, `SELECT pseq, epoch, occurred_at, body, hash FROM creditgate.ledger_record
		WHERE layout = $1 AND partition = $2 AND pseq > $3 ORDER BY pseq LIMIT $4`,
		int(v.layout), int(v.partition), v.prev.Pseq, pageRows)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (rec storedRecord, err error) {
		var occurred time.Time
		var hash []byte
		err = row.Scan(&rec.Pseq, &rec.Epoch, &occurred, &rec.Body, &hash)
		rec.OccurredMs = occurred.UnixMilli()
		copy(rec.hash[:], hash)
		return rec, err
	})
}

// entries reads what is stored decoded, by pseq, in the form that decoding a body gives.
func (v *chainVerifier) entries(ctx context.Context, from, to uint64) (map[uint64][]meter.Entry, error) {
	rows, err := v.tx.Query(ctx, `SELECT pseq, kind, seq, amount, account, subject, units, coalesce(operation, ''),
			coalesce(policy_version, ''), coalesce(key_id, ''), coalesce(reason, ''), coalesce(actor, ''),
			key_hash, key_fingerprint, occurred_at, idx
		FROM creditgate.ledger_entry WHERE layout = $1 AND partition = $2 AND pseq BETWEEN $3 AND $4
		ORDER BY pseq, idx`, int(v.layout), int(v.partition), from, to)
	if err != nil {
		return nil, err
	}
	out := map[uint64][]meter.Entry{}
	var pseq uint64
	var kind string
	var hash, fingerprint []byte
	var occurred time.Time
	var idx int
	var e meter.Entry
	_, err = pgx.ForEachRow(rows, []any{
		&pseq, &kind, &e.Seq, (*int64)(&e.Amount), &e.Account, (*[16]byte)(&e.ID), &e.Units, &e.Note.Operation,
		&e.Note.PolicyVersion, &e.Note.KeyID, &e.Note.Reason, &e.Note.Actor, &hash, &fingerprint, &occurred, &idx,
	}, func() error {
		e.Kind, e.Note.Key = kindOf(kind), nil
		if hash != nil {
			e.Note.Key = &meter.IdempotencyKey{}
			copy(e.Note.Key.Hash[:], bytes.Clone(hash))
			copy(e.Note.Key.Fingerprint[:], bytes.Clone(fingerprint))
		}
		if idx != len(out[pseq]) {
			v.drift(pseq, e.Account, "entries are not numbered from 0", strconv.Itoa(len(out[pseq])), strconv.Itoa(idx))
		}
		out[pseq] = append(out[pseq], e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, v.lines(ctx, from, to, out)
}

func (v *chainVerifier) lines(ctx context.Context, from, to uint64, entries map[uint64][]meter.Entry) error {
	rows, err := v.tx.Query(ctx, `SELECT pseq, idx, kind, grant_id, granted, spent, returned, lapsed, revoked, debt
		FROM creditgate.ledger_line WHERE layout = $1 AND partition = $2 AND pseq BETWEEN $3 AND $4
		ORDER BY pseq, idx, line`, int(v.layout), int(v.partition), from, to)
	if err != nil {
		return err
	}
	var pseq uint64
	var idx int
	var kind string
	var l meter.Line
	_, err = pgx.ForEachRow(rows, []any{
		&pseq, &idx, &kind, (*[16]byte)(&l.Grant), (*int64)(&l.Granted), (*int64)(&l.Spent), (*int64)(&l.Returned),
		(*int64)(&l.Lapsed), (*int64)(&l.Revoked), (*int64)(&l.Debt),
	}, func() error {
		es := entries[pseq]
		if idx < 0 || idx >= len(es) || es[idx].Kind != kindOf(kind) {
			v.drift(pseq, "", fmt.Sprintf("a line of entry %d, which is missing or not a %s", idx, kind), "", l.Grant.String())
			return nil
		}
		es[idx].Lines = append(es[idx].Lines, l)
		return nil
	})
	return err
}

// kindOf is the kind with this name; 0 for none.
func kindOf(name string) meter.Kind {
	for k := meter.KindGrant; k <= meter.KindHold; k++ {
		if k.String() == name {
			return k
		}
	}
	return 0
}
