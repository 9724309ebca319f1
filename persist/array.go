package persist

import (
	"github.com/jackc/pgx/v5/pgtype"

	"creditgate/meter"
)

// array is an argument of a Postgres array type. pgx takes a plain slice too, and allocates for each element, of which
// a batch has twelve for each grant that it changes; a pointer into the slice costs nothing.
type array[E any] []E

// Dimensions, Index and IndexType are how pgx reads it.
func (a array[E]) Dimensions() []pgtype.ArrayDimension {
	return []pgtype.ArrayDimension{{Length: int32(len(a)), LowerBound: 1}}
}

// Index returns the element's address, which says by its methods what it is.
func (a array[E]) Index(i int) any { return &a[i] }

// IndexType is by what pgx chooses how to encode them.
func (a array[E]) IndexType() any { return new(E) }

// What the arrays are of.
type (
	bigint int64
	uuid   meter.ID
	text   string
)

// Int64Value is how pgx reads a bigint.
func (v *bigint) Int64Value() (pgtype.Int8, error) {
	return pgtype.Int8{Int64: int64(*v), Valid: true}, nil
}

// UUIDValue is how pgx reads a uuid.
func (v *uuid) UUIDValue() (pgtype.UUID, error) { return pgtype.UUID{Bytes: *v, Valid: true}, nil }

// TextValue is how pgx reads a text.
func (v *text) TextValue() (pgtype.Text, error) {
	return pgtype.Text{String: string(*v), Valid: true}, nil
}
