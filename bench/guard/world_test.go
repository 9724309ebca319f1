package guard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter/redisd"
	"creditgate/persist/persisttest"
)

func TestMain(m *testing.M) { persisttest.Main(m) }

const (
	adminToken = "a-token-for-tests-only"
	// patience is how long a test waits for what must come about; it is reached only when something is broken.
	patience = 30 * time.Second
)

// The same request on three routes: nothing is asked of Redis for the first.
const policyText = `
name: studio
timezone: UTC
buckets: [promo, monthly, purchased]
operations:
  free:  {match: POST /free, credits: 0}
  fixed: {match: POST /fixed, credits: 1}
  units: {match: POST /units, units: body.n ?? 1, max: 10, credits: 1}
unmatched: refuse
`

// world is two gateways, as processes of the built binary, on real servers before a backend. The first flushes the
// ledger, so that the second, in which allocations are counted, does nothing but requests.
type world struct {
	t       *testing.T
	dir     string
	env     []string
	binary  string
	flusher *gateway
	counted *gateway
	key     string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.binary = filepath.Join(w.dir, "creditgate")
	build := exec.Command("go", "build", "-o", w.binary, "creditgate/cmd/creditgate") // never with the race detector
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "build: %s", out)
	policy := filepath.Join(w.dir, "policy.yaml")
	require.NoError(t, os.WriteFile(policy, []byte(policyText), 0o600))
	w.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"CREDITGATE_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_TOKEN=" + adminToken,
		"CREDITGATE_REDIS_URL=" + redisd.Test(t).URL(), "CREDITGATE_POSTGRES_URL=" + persisttest.DB(t),
		"CREDITGATE_POLICY=" + policy, "CREDITGATE_UPSTREAM=" + startBackend(t), "CREDITGATE_PARTITIONS=1",
		"CREDITGATE_VERIFY_EVERY=0", // not in the middle of a count
		"GOGC=off", "GOMAXPROCS=2",  // a collection would empty the pools, at a moment of its own choice
	}
	w.flusher = w.serve("flusher")
	w.key = w.flusher.account("acme")
	require.Eventually(t, func() bool { return w.flusher.figure(recordsFlushed) > 0 }, patience, 10*time.Millisecond,
		"the first gateway does not flush")
	w.counted = w.serve("counted")
	return w
}

// startBackend answers 2 KB of JSON.
func startBackend(t *testing.T) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	answer := `{"data":[{"url":"` + strings.Repeat("x", 2000) + `"}]}`
	server := &fasthttp.Server{NoDefaultServerHeader: true, Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("application/json")
		ctx.SetBodyString(answer)
	}}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = ln.Close() })
	return "http://" + ln.Addr().String()
}

// gateway is a running `creditgate serve`.
type gateway struct {
	t     *testing.T
	data  string // host:port
	admin string // URL
	log   *log
}

// log keeps what a gateway said.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serve starts a gateway and returns once it is ready. It is killed when the test ends.
func (w *world) serve(name string) *gateway {
	w.t.Helper()
	g := &gateway{t: w.t, log: &log{}}
	cmd := exec.Command(w.binary, "serve")
	cmd.Env = append(slices.Clone(w.env), "CREDITGATE_JOURNAL_DIR="+filepath.Join(w.dir, name))
	cmd.Stdout, cmd.Stderr = g.log, g.log
	require.NoError(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("%s said:\n%s", name, g.log)
		}
	})
	require.Eventually(w.t, g.ready, patience, 10*time.Millisecond, "%s is not ready", name)
	return g
}

func (g *gateway) ready() bool {
	for line := range strings.Lines(g.log.String()) {
		var event struct {
			Data    string `json:"data"`
			Control string `json:"control"`
		}
		if strings.Contains(line, `"listening"`) && json.Unmarshal([]byte(line), &event) == nil {
			g.data, g.admin = event.Data, "http://"+event.Control
		}
	}
	if g.admin == "" {
		return false
	}
	resp, err := http.Get(g.admin + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// ask sends a request to the control plane, which must do it.
func (g *gateway) ask(method, path, body string) string {
	g.t.Helper()
	req, err := http.NewRequest(method, g.admin+path, strings.NewReader(body))
	require.NoError(g.t, err)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	req.Header.Set("Accept-Encoding", "identity") // compressing /metrics takes a megabyte
	resp, err := http.DefaultClient.Do(req)
	require.NoError(g.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(g.t, err)
	require.Less(g.t, resp.StatusCode, 300, "%s %s: %s", method, path, b)
	return string(b)
}

// account makes an account with three grants, and a key.
func (g *gateway) account(name string) (key string) {
	g.t.Helper()
	g.ask("PUT", "/v1/accounts/"+name, `{}`)
	for _, bucket := range []string{"promo", "monthly", "purchased"} {
		g.ask("POST", "/v1/accounts/"+name+"/grants",
			fmt.Sprintf(`{"bucket":%q,"credits":1000000,"external_ref":%q}`, bucket, bucket))
	}
	var made struct {
		Key string `json:"key"`
	}
	require.NoError(g.t, json.Unmarshal([]byte(g.ask("POST", "/v1/accounts/"+name+"/keys", `{}`)), &made))
	return made.Key
}

// The figures that are read of a gateway.
const (
	mallocs        = "go_memstats_mallocs_total"
	mallocBytes    = "go_memstats_alloc_bytes_total"
	recordsFlushed = `creditgate_flush_rows_total{table="record"}`
)

// figures reads /metrics once.
func (g *gateway) figures() map[string]float64 {
	g.t.Helper()
	out := map[string]float64{}
	for line := range strings.Lines(g.ask("GET", "/metrics", "")) {
		name, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if x, err := strconv.ParseFloat(value, 64); found && err == nil {
			out[name] = x
		}
	}
	return out
}

func (g *gateway) figure(name string) float64 { return g.figures()[name] }
