package persist

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The roles that migrations make. Neither can log in; logins are made members of them.
const (
	WriterRole  = "creditgate_writer"
	FinanceRole = "finance_reader"
)

// EnsureDatabase makes a database on a private server, as its owner. In production an administrator does.
func EnsureDatabase(ctx context.Context, ownerURL, name string) error {
	return ensure(ctx, ownerURL, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
}

// EnsureLogin makes a login that is a member of role, on a private server that trusts its connections. In production
// an administrator makes logins, with passwords.
func EnsureLogin(ctx context.Context, ownerURL, login, role string) error {
	return ensure(ctx, ownerURL, fmt.Sprintf("CREATE ROLE %s LOGIN IN ROLE %s",
		pgx.Identifier{login}.Sanitize(), pgx.Identifier{role}.Sanitize()))
}

// ensure runs a statement that makes something, which may have been made before or by somebody else at this moment.
func ensure(ctx context.Context, ownerURL, sql string) (err error) {
	conn, err := pgx.Connect(ctx, ownerURL)
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	_, err = conn.Exec(ctx, sql)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case duplicateObject, duplicateDatabase, uniqueViolation:
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// TooMuchPower says by which right the store's login may do more than a gateway needs: change or remove the ledger.
// Empty: it has none.
func (s *Store) TooMuchPower(ctx context.Context) (login, why string, err error) {
	var super, owner bool
	err = s.pool.QueryRow(ctx, `SELECT current_user, r.rolsuper, pg_has_role(current_user, n.nspowner, 'MEMBER')
		FROM pg_roles r, pg_namespace n WHERE r.rolname = current_user AND n.nspname = 'creditgate'`).Scan(&login, &super, &owner)
	switch {
	case err != nil:
		return "", "", storeError("read the login's rights", err)
	case super:
		return login, "is a superuser", nil
	case owner:
		return login, "owns the schema creditgate", nil
	}
	return login, "", nil
}
