package persist

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// versionTable lies outside schema creditgate, because the first migration makes that schema and the last one down
// removes it.
const versionTable = "public.creditgate_version"

// ErrSchema says that the database is not at the version this binary needs.
var ErrSchema = errors.New("database schema")

// Migrate brings the database at url up to this binary's version, as the owner of the schema. Several may run at
// once: an advisory lock lets one go first.
//
// Roles are made here and not by the migrations, whose files still say so: CREATE ROLE asks for the right to do so before
// it looks whether the role exists. An ErrPrivileges says what a superuser must run first.
func Migrate(ctx context.Context, url string) error {
	if err := prepareOwner(ctx, url); err != nil {
		return err
	}
	return withMigrator(ctx, url, func(m *migrate.Migrator) error { return m.Migrate(ctx) })
}

// MigrateDown takes the database down to version; 0 removes everything, the ledger too. Roles stay, since other
// databases of the cluster may use them.
func MigrateDown(ctx context.Context, url string, version int) error {
	return withMigrator(ctx, url, func(m *migrate.Migrator) error { return m.MigrateTo(ctx, int32(version)) })
}

func withMigrator(ctx context.Context, url string, fn func(*migrate.Migrator) error) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	m, err := migrate.NewMigrator(ctx, conn, versionTable)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	names, err := migrationNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		up, err := migrations.ReadFile("migrations/" + name + ".up.sql")
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		down, err := migrations.ReadFile("migrations/" + name + ".down.sql")
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		m.AppendMigration(name, withoutRoles(string(up)), string(down))
	}
	if err := fn(m); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// withoutRoles is a migration that leaves roles to prepareOwner.
func withoutRoles(sql string) string {
	for _, role := range [...]string{WriterRole, FinanceRole} {
		sql = strings.Replace(sql, "  "+createRole(role)+"\n", "  NULL; -- "+role+" is there\n", 1)
	}
	return sql
}

// migrationNames lists the migrations in order: 001_x, 002_y. Its length is the version this binary needs.
func migrationNames() ([]string, error) {
	files, err := fs.Glob(migrations, "migrations/*.up.sql") // sorted
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(strings.TrimPrefix(f, "migrations/"), ".up.sql")
		if want := fmt.Sprintf("%03d_", i+1); !strings.HasPrefix(names[i], want) {
			return nil, fmt.Errorf("migrations: %s should start with %s", f, want)
		}
	}
	return names, nil
}

// CheckSchema returns ErrSchema unless the database is at this binary's version.
func (s *Store) CheckSchema(ctx context.Context) error {
	names, err := migrationNames()
	if err != nil {
		return err
	}
	var have int
	err = s.pool.QueryRow(ctx, `SELECT version FROM `+versionTable).Scan(&have)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == insufficientPrivilege {
		err = s.notWriter(ctx)
	}
	if errors.As(err, &pg) && pg.Code == undefinedTable {
		have, err = 0, nil
	}
	if err != nil {
		return storeError("read schema version", err)
	}
	switch want := len(names); {
	case have < want:
		return fmt.Errorf("%w is at version %d, this binary needs %d: run `creditgate migrate` with "+
			"CREDITGATE_MIGRATE_URL set to the owner's URL", ErrSchema, have, want)
	case have > want:
		return fmt.Errorf("%w is at version %d, this binary knows only %d: run the newer binary", ErrSchema, have, want)
	}
	return nil
}

// notWriter is why the login may not read the version: it was not made a member of the writer role, or no migration has
// let that role read it yet, which is nil.
func (s *Store) notWriter(ctx context.Context) error {
	var login, database string
	var migrated bool
	err := s.pool.QueryRow(ctx, `SELECT quote_ident(current_user), quote_ident(current_database()),
		to_regnamespace('creditgate') IS NOT NULL`).
		Scan(&login, &database, &migrated)
	if err != nil || !migrated {
		return err
	}
	return &PrivilegesError{
		Role: login, Database: database, For: "it is not a member of " + WriterRole,
		SQL: []string{fmt.Sprintf("GRANT %s TO %s;", WriterRole, login)},
	}
}

// SchemaVersion is the version the database at url is at, and the one this binary needs. It changes nothing.
func SchemaVersion(ctx context.Context, url string) (have, want int, err error) {
	names, err := migrationNames()
	if err != nil {
		return 0, 0, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, len(names), fmt.Errorf("schema version: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	err = conn.QueryRow(ctx, `SELECT version FROM `+versionTable).Scan(&have)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == undefinedTable {
		err = nil
	}
	return have, len(names), storeError("read schema version", err)
}
