// Package persisttest gives tests a database of their own on a real PostgreSQL: one private server per test binary,
// started when first asked for, and one database per test, cloned from a migrated template in about 50 ms.
//
// It refuses to share databases between tests and to skip where PostgreSQL is missing.
package persisttest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"creditgate/meter"
	"creditgate/persist"
	"creditgate/persist/postgresd"
)

// The logins that tests connect as: the gateway's and a finance reader's.
const (
	writerLogin  = "creditgate"
	financeLogin = "finance"
	template     = "creditgate_template"
)

// shared is the test binary's server. Tests of one binary are the only code that shares it, which is why it may be
// global.
var shared cluster //nolint:gochecknoglobals // one per test binary is its purpose

type cluster struct {
	mu     sync.Mutex
	server *postgresd.Server
	dir    string
	err    error // of the first start; trying again for each test would only take long
}

// Main runs a package's tests and stops the server that they may have started. Call it from TestMain.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for a TestMain that has something else to end: it returns the exit status.
func Run(m *testing.M) int {
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
		code = 1
	}
	return code
}

// DB returns the URL of a fresh, migrated database as the gateway's login, which may do what the writer role may and
// no more. It is dropped when the test ends.
func DB(tb testing.TB) string {
	tb.Helper()
	server, err := shared.start(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return clone(tb, server)
}

// Private returns a server of the test's own, to be killed, frozen and restarted, and a database on it as DB gives.
func Private(tb testing.TB) (server *postgresd.Server, dbURL string) {
	tb.Helper()
	server, err := postgresd.Start(tb.Context(), postgresd.Options{Dir: tb.TempDir(), NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := prepare(tb.Context(), server); err != nil {
		tb.Fatal(err)
	}
	return server, as(tb, server.URL(template), writerLogin)
}

// Store opens a store on a fresh database.
func Store(tb testing.TB, layout meter.Layout) *persist.Store {
	tb.Helper()
	return Open(tb, DB(tb), layout)
}

// Open opens a store on a database that DB or Private gave, and closes it when the test ends.
func Open(tb testing.TB, dbURL string, layout meter.Layout) *persist.Store {
	tb.Helper()
	return OpenAt(tb, dbURL, layout, nil)
}

// OpenAt is Open with a clock that the test moves.
func OpenAt(tb testing.TB, dbURL string, layout meter.Layout, clock *meter.Clock) *persist.Store {
	tb.Helper()
	store, err := persist.Open(tb.Context(), dbURL, layout, clock)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(store.Close)
	if err := store.EnsureLayout(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return store
}

// Empty returns the URL of a database without any of our schemas, as its owner.
func Empty(tb testing.TB) string {
	tb.Helper()
	server, err := shared.start(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return create(tb, server, "template1")
}

// AsOwner is a database's URL as superuser, who may also tamper with it.
func AsOwner(tb testing.TB, dbURL string) string { tb.Helper(); return as(tb, dbURL, "postgres") }

// Tamper runs statements that only a superuser can: they change the ledger behind its triggers.
func Tamper(tb testing.TB, dbURL string, statements ...string) {
	tb.Helper()
	for _, table := range []string{"ledger_record", "ledger_entry", "ledger_line"} {
		statements = append([]string{"ALTER TABLE creditgate." + table + " DISABLE TRIGGER ALL"}, statements...)
	}
	for _, sql := range statements {
		if err := execute(tb.Context(), AsOwner(tb, dbURL), sql); err != nil {
			tb.Fatal(err)
		}
	}
}

// AsFinance is a database's URL as a member of finance_reader.
func AsFinance(tb testing.TB, dbURL string) string { tb.Helper(); return as(tb, dbURL, financeLogin) }

func as(tb testing.TB, dbURL, login string) string {
	tb.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		tb.Fatal(err)
	}
	u.User = url.User(login)
	return u.String()
}

func (c *cluster) start(ctx context.Context) (*postgresd.Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil || c.err != nil {
		return c.server, c.err
	}
	if c.dir, c.err = os.MkdirTemp("", "creditgate-test-pg"); c.err != nil {
		return nil, c.err
	}
	// the server outlives the test that happened to ask first
	c.server, c.err = postgresd.Start(context.WithoutCancel(ctx), postgresd.Options{Dir: c.dir, NoSync: true})
	if c.err == nil {
		c.err = prepare(ctx, c.server)
	}
	return c.server, c.err
}

func (c *cluster) stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.server != nil {
		err = c.server.Close()
	}
	if c.dir != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Clean(c.dir)))
	}
	return err
}

// prepare makes the template and the logins.
func prepare(ctx context.Context, server *postgresd.Server) error {
	if err := persist.EnsureDatabase(ctx, server.URL("postgres"), template); err != nil {
		return err
	}
	if err := persist.Migrate(ctx, server.URL(template)); err != nil {
		return err
	}
	return errors.Join(
		persist.EnsureLogin(ctx, server.URL("postgres"), writerLogin, persist.WriterRole),
		persist.EnsureLogin(ctx, server.URL("postgres"), financeLogin, persist.FinanceRole))
}

func clone(tb testing.TB, server *postgresd.Server) string {
	tb.Helper()
	return as(tb, create(tb, server, template), writerLogin)
}

func create(tb testing.TB, server *postgresd.Server, from string) string {
	tb.Helper()
	name := "t_" + meter.NewID(time.Now()).String()
	admin := server.URL("postgres")
	quoted := pgx.Identifier{name}.Sanitize()
	if err := execute(tb.Context(), admin, "CREATE DATABASE "+quoted+" TEMPLATE "+from); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := execute(context.Background(), admin, "DROP DATABASE "+quoted+" WITH (FORCE)"); err != nil {
			tb.Error(err)
		}
	})
	return server.URL(name)
}

func execute(ctx context.Context, dbURL, sql string) error {
	conn, err := pgx.Connect(ctx, dbURL)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}
