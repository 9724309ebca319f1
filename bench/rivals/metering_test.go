package rivals_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/bench/cast"
	"creditgate/bench/rivals"
	"creditgate/meter/redisd"
	"creditgate/persist/persisttest"
)

func TestMain(m *testing.M) { os.Exit(persisttest.Run(m)) }

// books is what a rival's store says of an account, in milli-credits.
type books struct{ left, spent, held int64 }

// rival is a metered target on a store of its own.
type rival struct {
	name  string
	args  []string
	books func(t *testing.T, account string) books
}

// everyRival leaves out nginx where it cannot be had, such as on macOS, and says so.
func everyRival(t *testing.T) []rival {
	t.Helper()
	server := redisd.Test(t)
	dbURL := persisttest.Empty(t)
	all := []rival{
		{"naive", []string{"-redis", server.URL()}, redisBooks(server)},
		{"pgrow", []string{"-postgres", dbURL}, postgresBooks(dbURL)},
	}
	if err := rivals.Available("nginx"); err != nil {
		t.Log("not tested:", err)
		return all
	}
	other := redisd.Test(t)
	dir := filepath.Join(t.TempDir(), "made")
	return append(all, rival{"nginx", []string{"-redis", other.URL(), "-dir", dir}, redisBooks(other)})
}

func redisBooks(server *redisd.Server) func(*testing.T, string) books {
	return func(t *testing.T, account string) (b books) {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
		defer rdb.Close()
		fields, err := rdb.HGetAll(t.Context(), "rival:{"+account+"}:grants").Result()
		require.NoError(t, err)
		for field, text := range fields {
			n, err := strconv.ParseInt(text, 10, 64)
			require.NoError(t, err)
			require.GreaterOrEqual(t, n, int64(0), field)
			if field == "spent" {
				b.spent = n
			} else {
				b.left += n
			}
		}
		holds, err := rdb.Keys(t.Context(), "rival:{"+account+"}:hold:*").Result()
		require.NoError(t, err)
		for _, hold := range holds {
			draws, err := rdb.HVals(t.Context(), hold).Result()
			require.NoError(t, err)
			for _, text := range draws {
				n, err := strconv.ParseInt(text, 10, 64)
				require.NoError(t, err)
				b.held += n
			}
		}
		return b
	}
}

func postgresBooks(dbURL string) func(*testing.T, string) books {
	return func(t *testing.T, account string) (b books) {
		conn, err := pgx.Connect(t.Context(), dbURL)
		require.NoError(t, err)
		defer conn.Close(t.Context())
		for table, into := range map[string]*int64{"grants": &b.left, "ledger": &b.spent, "reservations": &b.held} {
			column := "amount"
			if table == "grants" {
				column = "credits"
			}
			require.NoError(t, conn.QueryRow(t.Context(), "SELECT coalesce(sum("+column+"), 0)::bigint FROM rival_pgrow."+table+
				" WHERE account = $1", account).Scan(into))
		}
		return b
	}
}

// failing answers every third request with 200, and the others with 500.
func failing(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var calls atomic.Int64
	server := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		if calls.Add(1)%3 != 0 {
			ctx.SetStatusCode(500)
		}
	}}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestRivalsChargeExactly(t *testing.T) { //nolint:tparallel // the cases of a rival share its store
	t.Parallel()
	const accounts, requests = 2, 300
	type result struct{ served, refused, failed int }
	backend := start(t, "backend")
	for _, r := range everyRival(t) {
		for _, c := range []struct {
			name    string
			backend string
			credits int64
			want    result // of each account
		}{
			{"enough", backend, 1000, result{served: 150}},
			{"to the last credit", backend, 40, result{served: 40, refused: 110}},
			{"nothing", backend, 0, result{refused: 150}},
			{"given back where the backend fails", failing(t), 1000, result{}},
		} {
			t.Run(r.name+"/"+c.name, func(t *testing.T) {
				args := append([]string{
					"-backend", c.backend, "-accounts", strconv.Itoa(accounts), "-credits", strconv.FormatInt(c.credits, 10),
				}, r.args...)
				addr := start(t, r.name, args...)
				got := volley(t, addr, cast.PathPriced, requests, accounts)
				for i, statuses := range got {
					served := statuses[200]
					require.Equal(t, books{left: (c.credits - int64(served)) * 1000, spent: int64(served) * 1000},
						r.books(t, cast.Account(i)), "account %d: %v", i, statuses)
					if c.backend == backend {
						require.Equal(t, c.want, result{served, statuses[402], requests/accounts - served - statuses[402]})
					} else {
						require.Positive(t, statuses[500])
						require.Equal(t, requests/accounts, served+statuses[500])
					}
				}
			})
		}
	}
}

func TestRivalsPassImagesAndRefuseStrangers(t *testing.T) {
	t.Parallel()
	backend := start(t, "backend")
	for _, r := range everyRival(t) {
		addr := start(t, r.name, append([]string{"-backend", backend}, r.args...)...)
		c := client(t)
		status, body := post(t, c, addr, cast.PathImage, cast.Key(0))
		require.Equal(t, 200, status, r.name)
		require.Equal(t, cast.Image(), body, r.name)
		status, body = post(t, c, addr, cast.PathPriced, cast.Key(0))
		require.Equal(t, 200, status, r.name)
		require.Equal(t, cast.Answer(), body, r.name)
		status, _ = post(t, c, addr, cast.PathPriced, cast.Key(1))
		require.Equal(t, 401, status, r.name)
		require.Equal(t, int64(2000), r.books(t, cast.Account(0)).spent, r.name)
	}
}

func TestRivalsWithoutTheirStore(t *testing.T) {
	t.Parallel()
	backend := start(t, "backend")
	for _, r := range everyRival(t) {
		if r.name == "pgrow" {
			continue // its database server is the other tests' too
		}
		addr := start(t, r.name, append([]string{"-backend", backend}, r.args...)...)
		rdb := redis.NewClient(&redis.Options{Addr: strings.TrimSuffix(strings.TrimPrefix(r.args[1], "redis://"), "/0")})
		_ = rdb.ShutdownNoSave(t.Context()) // the connection ends instead of an answer
		status, _ := post(t, client(t), addr, cast.PathPriced, cast.Key(0))
		require.Equal(t, 503, status, r.name)
		require.NoError(t, rdb.Close())
	}
}
