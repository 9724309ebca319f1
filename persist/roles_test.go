package persist_test

import (
	"context"
	"net/url"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"creditgate/persist"
	"creditgate/persist/postgresd"
)

// A DBA gave a database to an owner who may make no roles, as managed services do.
func TestOwnerWithoutCreaterole(t *testing.T) {
	t.Parallel()
	server, err := postgresd.Start(t.Context(), postgresd.Options{Dir: t.TempDir(), NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	admin := server.URL("postgres")
	run(t, admin, `CREATE ROLE "App-Owner" LOGIN`, `CREATE ROLE gateway LOGIN`, `CREATE DATABASE credits`)
	owner := login(t, server.URL("credits"), "App-Owner")

	// Roles do not exist, and nothing else is allowed: nothing is changed, and what is printed can be pasted.
	err = persist.Migrate(t.Context(), owner)
	require.ErrorIs(t, err, persist.ErrPrivileges)
	paste := pasted(err)
	require.Equal(t, []string{
		"CREATE ROLE creditgate_writer NOLOGIN;", "CREATE ROLE finance_reader NOLOGIN;",
		`GRANT CREATE ON DATABASE credits TO "App-Owner";`, `GRANT CREATE ON SCHEMA public TO "App-Owner";`,
	}, paste, "%v", err)
	run(t, server.URL("credits"), paste...)
	require.NoError(t, persist.Migrate(t.Context(), owner))
	require.NoError(t, persist.Migrate(t.Context(), owner), "again")

	// Roles exist already, in another database of the cluster.
	run(t, admin, `CREATE DATABASE more OWNER "App-Owner"`)
	more := login(t, server.URL("more"), "App-Owner")
	run(t, server.URL("more"), `GRANT CREATE ON SCHEMA public TO "App-Owner"`)
	require.NoError(t, persist.Migrate(t.Context(), more))
	require.NoError(t, persist.MigrateDown(t.Context(), more, 0))
	require.NoError(t, persist.Migrate(t.Context(), more))

	// The gateway's login was not made a member of the writer.
	gateway := login(t, server.URL("credits"), "gateway")
	store, err := persist.Open(t.Context(), gateway, layout, nil)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	err = store.CheckSchema(t.Context())
	require.ErrorIs(t, err, persist.ErrPrivileges)
	require.NotErrorIs(t, err, persist.ErrSchema)
	require.Equal(t, []string{"GRANT creditgate_writer TO gateway;"}, pasted(err))
	run(t, admin, pasted(err)...)
	require.NoError(t, store.CheckSchema(t.Context()))

	// Somebody else than the owner migrates.
	err = persist.Migrate(t.Context(), gateway)
	require.ErrorIs(t, err, persist.ErrPrivileges)
	require.ErrorContains(t, err, `schema creditgate belongs to "App-Owner"`)
}

// The migrations' files are never edited, and still make the roles; what runs of them does not.
func TestMigrationsLeaveRolesAlone(t *testing.T) {
	t.Parallel()
	for file, role := range map[string]string{
		"001_ledger.up.sql": persist.WriterRole, "002_finance.up.sql": persist.FinanceRole,
	} {
		sql, err := os.ReadFile(path.Join("migrations", file))
		require.NoError(t, err)
		require.Contains(t, string(sql), "CREATE ROLE "+role)
		require.NotContains(t, persist.WithoutRoles(string(sql)), "CREATE ROLE")
	}
}

func login(t *testing.T, dbURL, name string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	require.NoError(t, err)
	u.User = url.User(name)
	return u.String()
}

// pasted are the statements that an error shows.
func pasted(err error) (out []string) {
	for line := range strings.Lines(err.Error()) {
		if line, ok := strings.CutPrefix(line, "  "); ok {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func run(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	for _, sql := range statements {
		_, err = conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
}
