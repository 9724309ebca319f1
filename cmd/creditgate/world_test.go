package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
	"creditgate/meter/redisd"
	"creditgate/persist/persisttest"
)

// The tests of this package run the real binary, as processes of their own, on real servers.

// binary is built once, without the race detector: the packages' own tests have it, and here processes are killed.
var binary string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "creditgate-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "creditgate")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return persisttest.Run(m)
}

const adminToken = "a-token-for-tests-only"

// patience is how long a test waits for what must come about; it is reached only when something is broken.
const patience = 30 * time.Second

// world is a Redis, a database, a backend and any number of gateways on them.
type world struct {
	redis    *redisd.Server
	database string
	backend  *httptest.Server
	journal  string
	policy   string
}

// newWorld makes a world whose backend answers as the image service does, once answer has returned.
func newWorld(t *testing.T, answer func(r *http.Request)) *world {
	t.Helper()
	w := &world{redis: redisd.Test(t), database: persisttest.DB(t), journal: filepath.Join(t.TempDir(), "journal")}
	w.policy = filepath.Join(t.TempDir(), "dev.yaml")
	src, err := policy.Example("dev")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(w.policy, src, 0o600))
	w.backend = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if answer != nil {
			answer(r)
		}
		rw.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(rw, `{"data":[{"b64_json":"aW1hZ2U="}]}`)
	}))
	t.Cleanup(w.backend.Close)
	return w
}

func (w *world) env(extra ...string) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"CREDITGATE_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_LISTEN=127.0.0.1:0", "CREDITGATE_ADMIN_TOKEN=" + adminToken,
		"CREDITGATE_REDIS_URL=" + w.redis.URL(), "CREDITGATE_POSTGRES_URL=" + w.database,
		"CREDITGATE_POLICY=" + w.policy, "CREDITGATE_UPSTREAM=" + w.backend.URL, "CREDITGATE_JOURNAL_DIR=" + w.journal,
	}
	return append(env, extra...)
}

// process is a running binary. Its output is read as long as it lives.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu     sync.Mutex
	output bytes.Buffer
	grew   chan struct{} // closed and replaced when there is more output
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.grew)
	p.grew = make(chan struct{})
	return p.output.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// launch starts the binary, and kills it when the test ends.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary, args...), ended: make(chan struct{}), grew: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, p, p
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%v said:\n%s", args, p.text())
		}
	})
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// interrupt asks the process to end and returns its exit status.
func (p *process) interrupt(t *testing.T, sig os.Signal) int {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(sig))
	return p.wait(t)
}

func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		require.FailNow(t, "the process does not end", p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

// await returns the first line of output that find accepts.
func (p *process) await(t *testing.T, what string, find func(line string) bool) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		text, grew := p.output.String(), p.grew
		p.mu.Unlock()
		for line := range strings.Lines(text) {
			if find(line) {
				return strings.TrimSpace(line)
			}
		}
		select {
		case <-grew:
		case <-p.ended:
			require.FailNow(t, "the process ended before it said "+what, p.text())
		case <-deadline:
			require.FailNow(t, "the process did not say "+what, p.text())
		}
	}
}

// gateway is a running `creditgate serve`.
type gateway struct {
	*process

	data, admin string // URLs
}

// serve starts a gateway and returns once it is ready.
func (w *world) serve(t *testing.T, extra ...string) *gateway {
	t.Helper()
	g := &gateway{process: launch(t, w.env(extra...), "serve")}
	var event struct {
		Data    string `json:"data"`
		Control string `json:"control"`
	}
	line := g.await(t, "where it listens", func(line string) bool { return strings.Contains(line, `"listening"`) })
	require.NoError(t, json.Unmarshal([]byte(line), &event))
	g.data, g.admin = "http://"+event.Data, "http://"+event.Control
	require.Eventually(t, func() bool {
		status, _ := g.ask(t, "GET", "/readyz", "")
		return status == http.StatusOK
	}, patience, 10*time.Millisecond, "the gateway is not ready: %s", g.text())
	return g
}

// ask sends a request to the control plane; status 0 if nobody answers.
func (g *gateway) ask(t *testing.T, method, path, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, g.admin+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func (g *gateway) must(t *testing.T, method, path, body string) string {
	t.Helper()
	status, answer := g.ask(t, method, path, body)
	require.Less(t, status, 300, "%s %s: %s", method, path, answer)
	require.NotZero(t, status, "%s %s: nobody answers", method, path)
	return answer
}

// account makes an account with an API key, and grants written as bucket, credits, bucket, credits.
func (g *gateway) account(t *testing.T, name string, grants ...any) (key string) {
	t.Helper()
	g.must(t, "PUT", "/v1/accounts/"+name, `{}`)
	for i := 0; i+1 < len(grants); i += 2 {
		g.must(t, "POST", "/v1/accounts/"+name+"/grants",
			fmt.Sprintf(`{"bucket":%q,"credits":%v,"external_ref":"%s-%d"}`, grants[i], grants[i+1], name, i/2))
	}
	var made struct {
		Key string `json:"key"`
	}
	require.NoError(t, json.Unmarshal([]byte(g.must(t, "POST", "/v1/accounts/"+name+"/keys", `{}`)), &made))
	return made.Key
}

// balance is what an account has.
type balance struct {
	Available float64 `json:"available"`
	Held      float64 `json:"held"`
}

func (g *gateway) balance(t *testing.T, account string) (b balance) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(g.must(t, "GET", "/v1/accounts/"+account+"/balance", "")), &b))
	return b
}

// reply is an answer that a client has received whole.
type reply struct {
	status      int
	reservation string
	charged     string
	body        string
}

// generate asks for one picture, which costs one credit.
func generate(ctx context.Context, client *http.Client, url, key string) (reply, error) {
	return send(ctx, client, url+"/v1/images/generations", key, `{"prompt":"a red bicycle","n":1}`)
}

// send asks for something that is priced.
func send(ctx context.Context, client *http.Client, url, key, body string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{
		status: resp.StatusCode, reservation: resp.Header.Get("X-Credits-Reservation"),
		charged: resp.Header.Get("X-Credits-Charged"), body: string(b),
	}, err
}

// verified runs `creditgate verify`, which must find no drift. It waits until Postgres has all that Redis had.
func (w *world) verified(t *testing.T) {
	t.Helper()
	status, out := command(t, w.env(), "verify")
	require.Zero(t, status, out)
	require.Contains(t, out, "drifts 0")
}

// command runs the binary to its end.
func command(t *testing.T, env []string, args ...string) (status int, output string) {
	t.Helper()
	p := launch(t, env, args...)
	status = p.wait(t)
	return status, p.text()
}

// alive reports whether a process exists.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
