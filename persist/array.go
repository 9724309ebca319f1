package persist

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5/pgtype"

	"creditgate/meter"
)

// arrays are the arguments of one statement, each an array, in Postgres' binary form. An element has the form of a
// column of COPY, so both are encoded alike. pgx would take each element as an interface and encode it into memory that
// it does not keep, and a batch has nine elements for each account that was charged.
type arrays struct {
	rows   copyRows
	values [][]byte // parts of rows, as far as it did not move
}

func (a *arrays) reset() { a.rows.b, a.values = a.rows.b[:0], a.values[:0] }

// add appends an array of n elements of a type, each encoded by one call.
func (a *arrays) add(of uint32, n int, element func(r *copyRows, i int)) {
	from, dimensions := len(a.rows.b), uint32(1)
	if n == 0 {
		dimensions = 0
	}
	for _, v := range [...]uint32{dimensions, 0, of} { // none of them is null
		a.rows.b = binary.BigEndian.AppendUint32(a.rows.b, v)
	}
	if n > 0 {
		a.rows.b = binary.BigEndian.AppendUint32(a.rows.b, uint32(n))
		a.rows.b = binary.BigEndian.AppendUint32(a.rows.b, 1) // the first index
	}
	for i := range n {
		element(&a.rows, i)
	}
	a.values = append(a.values, a.rows.b[from:len(a.rows.b):len(a.rows.b)])
}

func (a *arrays) uuids(ids []meter.ID) {
	a.add(pgtype.UUIDOID, len(ids), func(r *copyRows, i int) { r.uuid(ids[i]) })
}
