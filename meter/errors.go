package meter

import "errors"

// Sentinels that callers branch on. gateway/problem.go is the one place that turns them into HTTP.
var (
	// ErrUnavailable says that Redis did not answer, or that the partition is not open. Whether the verb
	// happened is unknown unless the error is also ErrNotSent.
	ErrUnavailable = errors.New("metering unavailable")
	// ErrNotSent says that the verb certainly did not happen.
	ErrNotSent = errors.New("not sent")
	// ErrNoAccount says that the account does not exist.
	ErrNoAccount = errors.New("no such account")
	// ErrNoReservation says that the reservation does not exist, or is older than what Redis and Postgres keep.
	ErrNoReservation = errors.New("no such reservation")
	// ErrFenced says that a partition stays closed until a person has acted.
	ErrFenced = errors.New("fenced")
)
