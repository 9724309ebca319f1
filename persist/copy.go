package persist

import (
	"context"
	"encoding/binary"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
)

// copyChunk is how much is encoded ahead of what Postgres takes; one message of pgx has 64 KB.
const copyChunk = 64 << 10

// postgresEpochMs is 2000-01-01, from which Postgres counts, in Unix milliseconds.
const postgresEpochMs = 946_684_800_000

// copyRows are the rows of one column list, encoded by hand in COPY's binary form. pgx's CopyFrom takes each value as
// an interface and looks up how to encode it: some 40 allocations for an entry with one line. A width that is not the
// column's is refused by Postgres, so a column of another type is noticed by the first flush in any test.
type copyRows struct{ b []byte }

// row begins a row of this many columns.
func (r *copyRows) row(columns int) { r.b = binary.BigEndian.AppendUint16(r.b, uint16(columns)) }

func (r *copyRows) size(n int) { r.b = binary.BigEndian.AppendUint32(r.b, uint32(n)) }

func (r *copyRows) null() { r.b = binary.BigEndian.AppendUint32(r.b, ^uint32(0)) }

func (r *copyRows) smallint(v int) {
	r.size(2)
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(v))
}

func (r *copyRows) integer(v int) {
	r.size(4)
	r.b = binary.BigEndian.AppendUint32(r.b, uint32(v))
}

func (r *copyRows) bigint(v int64) {
	r.size(8)
	r.b = binary.BigEndian.AppendUint64(r.b, uint64(v))
}

func (r *copyRows) credits(all ...meter.Credits) {
	for _, c := range all {
		r.bigint(int64(c))
	}
}

// timestamp is of Unix milliseconds.
func (r *copyRows) timestamp(ms int64) { r.bigint((ms - postgresEpochMs) * 1000) }

func (r *copyRows) bytea(v []byte) {
	r.size(len(v))
	r.b = append(r.b, v...)
}

func (r *copyRows) uuid(id meter.ID) { r.bytea(id[:]) }

func (r *copyRows) text(s string) {
	r.size(len(s))
	r.b = append(r.b, s...)
}

func (r *copyRows) textOrNull(all ...string) {
	for _, s := range all {
		if s == "" {
			r.null()
		} else {
			r.text(s)
		}
	}
}

// copySource is the text of one COPY as a reader. It holds what one call of add brings and not more than copyChunk
// besides, however many rows there are. It is used again for the next COPY.
type copySource struct {
	rows    copyRows
	read    int // of rows.b
	n, next int
	add     func(r *copyRows, i int) // adds the rows that the i-th record has in this table
}

// begin makes it the source of n calls of add.
func (s *copySource) begin(n int, add func(r *copyRows, i int)) *copySource {
	s.read, s.n, s.next, s.add = 0, n, 0, add
	s.rows.b = append(s.rows.b[:0], "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...) // no flags, no extension
	return s
}

// Read implements io.Reader.
func (s *copySource) Read(p []byte) (int, error) {
	if s.read == len(s.rows.b) {
		s.read, s.rows.b = 0, s.rows.b[:0]
	}
	for s.next <= s.n && len(s.rows.b) < copyChunk {
		if s.next == s.n {
			s.rows.b = binary.BigEndian.AppendUint16(s.rows.b, ^uint16(0)) // the end, in place of a row
		} else {
			s.add(&s.rows, s.next)
		}
		s.next++
	}
	if s.read == len(s.rows.b) {
		return 0, io.EOF
	}
	n := copy(p, s.rows.b[s.read:])
	s.read += n
	return n, nil
}

// copyTo sends the source to a table of the schema. Columns are not quoted: they are ours.
func copyTo(ctx context.Context, tx pgx.Tx, table string, columns []string, s *copySource) error {
	sql := "COPY creditgate." + table + " (" + strings.Join(columns, ", ") + ") FROM STDIN (FORMAT binary)"
	_, err := tx.Conn().PgConn().CopyFrom(ctx, s, sql)
	return err
}
