package persist

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The roles that Migrate makes. Neither can log in; logins are made members of them.
const (
	WriterRole  = "creditgate_writer"
	FinanceRole = "finance_reader"
)

// ErrPrivileges says that a role lacks what only a superuser can give it.
var ErrPrivileges = errors.New("missing privileges")

// PrivilegesError is an ErrPrivileges with the SQL that mends it.
type PrivilegesError struct {
	Role, Database string
	For            string   // what is missing
	SQL            []string // for a superuser to run in the database
}

func (e *PrivilegesError) Error() string {
	return fmt.Sprintf("%s of role %s: %s. Let a superuser run this in database %s, and then repeat:\n\n  %s\n",
		ErrPrivileges, e.Role, e.For, e.Database, strings.Join(e.SQL, "\n  "))
}

// Is implements errors.Is.
func (e *PrivilegesError) Is(target error) bool { return target == ErrPrivileges }

func createRole(name string) string { return "CREATE ROLE " + name + " NOLOGIN;" }

// prepareOwner makes the roles that are missing, and finds what else an owner lacks before anything is changed.
func prepareOwner(ctx context.Context, url string) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	o := owner{conn: conn}
	if err := o.read(ctx); err != nil {
		return fmt.Errorf("migrate: read the privileges: %w", err)
	}
	if lacks := o.lacks(); lacks != nil {
		return fmt.Errorf("migrate: %w", lacks)
	}
	for _, role := range o.missing {
		if err := ensureOn(ctx, conn, createRole(role)); err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
	}
	return nil
}

// owner is the role that migrates, and what it may do.
type owner struct {
	conn *pgx.Conn

	name, database string // as SQL takes them
	createsRoles   bool
	missing        []string // roles
	schemaOwner    string   // of creditgate; empty: there is no such schema
	ownsSchema     bool
	createsSchemas bool // in the database
	createsTables  bool // in schema public, where the version stands
	versioned      bool // the version is there
}

func (o *owner) read(ctx context.Context) error {
	return o.conn.QueryRow(ctx, `SELECT quote_ident(current_user), quote_ident(current_database()), r.rolsuper OR r.rolcreaterole,
			ARRAY(SELECT n FROM unnest($1::text[]) n WHERE to_regrole(n) IS NULL),
			coalesce((SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'creditgate'), ''),
			coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'creditgate'), false),
			has_database_privilege(current_database(), 'CREATE'), has_schema_privilege('public', 'CREATE'),
			to_regclass($2) IS NOT NULL
		FROM pg_roles r WHERE r.rolname = current_user`, []string{WriterRole, FinanceRole}, versionTable).Scan(
		&o.name, &o.database, &o.createsRoles, &o.missing, &o.schemaOwner, &o.ownsSchema, &o.createsSchemas, &o.createsTables,
		&o.versioned)
}

// lacks is what keeps the owner from migrating, nil if nothing does.
func (o *owner) lacks() error {
	e := &PrivilegesError{Role: o.name, Database: o.database}
	add := func(what, sql string) {
		if e.For != "" {
			e.For += ", "
		}
		e.For += what
		e.SQL = append(e.SQL, sql)
	}
	if o.schemaOwner != "" && !o.ownsSchema {
		add("schema creditgate belongs to "+o.schemaOwner+" (set migrate_url to that role, or make this one a member of it)",
			fmt.Sprintf("GRANT %s TO %s;", o.schemaOwner, o.name))
	}
	if !o.createsRoles {
		for _, role := range o.missing {
			add("it may not make role "+role, createRole(role))
		}
	}
	if o.schemaOwner == "" && !o.createsSchemas {
		add("it may not make schemas", fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", o.database, o.name))
	}
	if !o.versioned && !o.createsTables {
		add("it may not make the table "+versionTable, fmt.Sprintf("GRANT CREATE ON SCHEMA public TO %s;", o.name))
	}
	if len(e.SQL) == 0 {
		return nil
	}
	return e
}

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
	return ensureOn(ctx, conn, sql)
}

func ensureOn(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.Exec(ctx, sql)
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
