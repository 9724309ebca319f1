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

// EnsureLogin makes a login that is a member of role, for private servers that trust their connections; in
// production an administrator makes logins, with passwords.
func EnsureLogin(ctx context.Context, ownerURL, login, role string) (err error) {
	conn, err := pgx.Connect(ctx, ownerURL)
	if err != nil {
		return fmt.Errorf("make login %s: %w", login, err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	_, err = conn.Exec(ctx, fmt.Sprintf(`CREATE ROLE %s LOGIN IN ROLE %s`,
		pgx.Identifier{login}.Sanitize(), pgx.Identifier{role}.Sanitize()))
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == duplicateObject || pg.Code == uniqueViolation) {
		return nil // made before, or by somebody else at this moment
	}
	if err != nil {
		return fmt.Errorf("make login %s: %w", login, err)
	}
	return nil
}
