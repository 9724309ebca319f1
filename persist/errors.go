package persist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// Sentinels that callers branch on. meter.ErrNoAccount is used for an account that does not exist.
var (
	// ErrUnavailable says that Postgres did not answer. Whether a write happened is unknown; every write here may
	// be repeated.
	ErrUnavailable = errors.New("database unavailable")
	// ErrRefConflict says that an external reference was used before with another content.
	ErrRefConflict = errors.New("external reference was used with another content")
	// ErrTooManyGrants says that the account has meter.GrantsMax grants that hold credit or are about to.
	ErrTooManyGrants = errors.New("too many live grants")
	// ErrGrantGone says that the grant holds nothing any more, so that its expiry cannot move.
	ErrGrantGone = errors.New("grant is used up")
	// ErrNoGrant says that the account has no such grant.
	ErrNoGrant = errors.New("no such grant")
	// ErrNoRevocation says that the account has no such revocation.
	ErrNoRevocation = errors.New("no such revocation")
	// ErrNoPurchase says that nothing was bought under this reference.
	ErrNoPurchase = errors.New("no such purchase")
	// ErrNotEligible says that the account may not buy this pack.
	ErrNotEligible = errors.New("pack is not for this account")
	// ErrSubscriptionRequired says that the pack is sold to subscribers only.
	ErrSubscriptionRequired = errors.New("pack needs an active subscription")
	// ErrNotRefundable says that the pack was sold without a right to a refund.
	ErrNotRefundable = errors.New("pack is not refundable")
	// ErrRefused says that what is recorded or the policy forbids the change.
	ErrRefused = errors.New("refused")
	// ErrNoKey says that there is no such API key.
	ErrNoKey = errors.New("no such key")
	// ErrExceedsGrant says that the revocations of a grant would exceed what it granted.
	ErrExceedsGrant = errors.New("revocations exceed the grant")
	// ErrInvalid says that a value is outside what the schema allows.
	ErrInvalid = errors.New("invalid value")
	// ErrLayout says that the database was made for another layout.
	ErrLayout = errors.New("layout mismatch")
)

// RefusalError is why something that was asked for is not done, in words for whoever asked. It unwraps to its sentinel.
type RefusalError struct {
	Is     error
	Param  string // what was asked for wrongly, as the request names it; may be empty
	Detail string
}

// Error is the reason.
func (r *RefusalError) Error() string { return r.Is.Error() + ": " + r.Detail }

// Unwrap is the sentinel.
func (r *RefusalError) Unwrap() error { return r.Is }

// refuseChoice refuses a value that must be one of those that known tells, and says so when it is missing, too.
func refuseChoice(param, value, known string) error {
	if value == "" {
		return refuse(ErrInvalid, param, "%s is required; %s", param, known)
	}
	return refuse(ErrInvalid, param, "%s %q is not known; %s", param, value, known)
}

func refConflict(external string) error {
	return refuse(ErrRefConflict, "external_ref", "external_ref %q was used before with another content, and what was "+
		"recorded then stays; send the same content to repeat it, or another external_ref", external)
}

func refuse(is error, param, format string, args ...any) error {
	return &RefusalError{Is: is, Param: param, Detail: fmt.Sprintf(format, args...)}
}

// SQLSTATEs that are told apart (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const (
	uniqueViolation     = "23505"
	foreignKeyViolation = "23503"
	checkViolation      = "23514"

	// A standby, during failover, or a session that began read-only.
	readOnlyTransaction = "25006"
	// A session that was too slow was ended, and the next one may be faster.
	idleTransactionTimeout, transactionTimeout = "25P03", "25P04"

	undefinedTable        = "42P01"
	insufficientPrivilege = "42501"
	duplicateObject       = "42710"
	duplicateDatabase     = "42P04"
)

// storeError wraps err with what was being done, and with ErrUnavailable when Postgres could not be asked.
func storeError(doing string, err error) error {
	if err == nil {
		return nil
	}
	if unavailable(err) {
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Marked adds ErrUnavailable where it applies to the error of a package below this one.
func Marked(err error) error {
	if err == nil || !unavailable(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// preparedAway reports whether a prepared statement is not there any more, after DISCARD or DEALLOCATE of something in
// between, or does not fit the tables, after a migration. On another connection it is prepared anew.
func preparedAway(err error) bool {
	const unknownStatement, featureNotSupported = "26000", "0A000" // the latter: "cached plan must not change result type"
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == unknownStatement || pg.Code == featureNotSupported)
}

// unavailable reports whether an error says nothing about what was asked: the same may succeed a moment later.
// Background workers repeat it within retryMax.
func unavailable(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code[:2] {
		case "08", "53", "57", "58": // connection, resources, operator intervention, system error
			return true
		case "40", "55": // serialization failure or deadlock, object in use: as if it had not been asked
			return true
		}
		switch pg.Code {
		case readOnlyTransaction, idleTransactionTimeout, transactionTimeout:
			return true
		}
		return false
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.Timeout(err) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err)
}
