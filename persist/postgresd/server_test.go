package postgresd

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func start(t *testing.T, opt Options) *Server {
	t.Helper()
	opt.NoSync = true
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	s, err := Start(t.Context(), opt)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func exec1(t *testing.T, s *Server, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func TestLifeOfAServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	first, addr := s.PID(), s.Addr()
	exec1(t, s, `CREATE TABLE kept (n int)`)

	require.NoError(t, s.Kill())
	require.Zero(t, s.PID())
	require.NoError(t, s.Restart(t.Context()))
	require.Equal(t, addr, s.Addr(), "a restart keeps the port")
	require.NotEqual(t, first, s.PID())
	exec1(t, s, `INSERT INTO kept VALUES (1)`)

	require.NoError(t, s.Stop())
	require.NoError(t, s.Stop(), "stopping twice is fine")
	select {
	case <-s.Done():
	default:
		t.Fatal("Done is open after Stop")
	}
	require.NoError(t, s.Restart(t.Context()))
	exec1(t, s, `DROP TABLE kept`)

	again, err := Start(t.Context(), Options{Dir: dir, Port: 1})
	require.ErrorIs(t, err, ErrExited, "two servers on one directory")
	require.Nil(t, again)
	require.ErrorContains(t, err, "postmaster.pid", "the error must quote the server's log")
}

func TestPauseFreezesOpenConnections(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()

	require.NoError(t, s.Pause())
	answered := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `SELECT 1`)
		answered <- err
	}()
	select {
	case <-answered:
		t.Fatal("a frozen server answered")
	case <-time.After(100 * time.Millisecond): // nothing can be waited for: the point is that nothing comes
	}
	require.NoError(t, s.Resume())
	require.NoError(t, <-answered)
}

func TestFreshStartsOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	exec1(t, s, `CREATE TABLE kept (n int)`)
	require.NoError(t, s.Close())
	s = start(t, Options{Dir: dir, Fresh: true})
	exec1(t, s, `CREATE TABLE kept (n int)`)
}

func TestStaleLockFileIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	require.NoError(t, s.Close())
	// a live process that is no Postgres has the number of the old server
	lock := fmt.Sprintf("%d\n%s\n", os.Getpid(), s.data)
	require.NoError(t, os.WriteFile(s.data+"/postmaster.pid", []byte(lock), 0o600))
	owner, err := os.Stat(s.data) // Postgres wrote it, so it is that user's
	require.NoError(t, err)
	stat, ok := owner.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	require.NoError(t, os.Chown(s.data+"/postmaster.pid", int(stat.Uid), int(stat.Gid)))
	start(t, Options{Dir: dir})
}

func TestUnprivilegedUserWhereNamespacesAreBarred(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // an ordinary user needs no other identity
	}
	bin, err := Find(t.Context())
	require.NoError(t, err)
	id, err := lookup("nobody")
	require.NoError(t, err)
	require.NoError(t, id.canRun(t.Context(), bin, "/"))
	home, err := os.MkdirTemp("/tmp", "cgpgtest") //nolint:usetesting // t.TempDir is closed to other users
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	require.NoError(t, os.Chmod(home, 0o755))

	s := &Server{opt: Options{NoSync: true}, bin: bin, identity: id, data: home + "/data", log: home + "/log"}
	require.NoError(t, s.prepare(t.Context()))
	require.NoError(t, s.makeSocketDir())
	require.NoError(t, s.Restart(t.Context()))
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	info, err := os.Stat(s.data + "/postmaster.pid")
	require.NoError(t, err)
	require.EqualValues(t, id.uid, info.Sys().(*syscall.Stat_t).Uid)
}

func TestRootCannotReachAnothersHome(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return
	}
	bin, err := Find(t.Context())
	require.NoError(t, err)
	home := t.TempDir()
	project := home + "/project"
	require.NoError(t, os.Mkdir(project, 0o755))
	require.NoError(t, os.Chmod(home, 0o700))
	require.NoError(t, os.Chown(home, 4242, 4242))
	away := t.TempDir()
	_, dir, err := placement(t.Context(), bin, project, away)
	require.NoError(t, err)
	require.Equal(t, away, dir)
}
