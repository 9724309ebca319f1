package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// devRun is a running `creditgate dev`.
type devRun struct {
	*process

	dir  string
	info devInfo
}

type devInfo struct {
	DataURL     string            `json:"data_url"`
	AdminURL    string            `json:"admin_url"`
	AdminToken  string            `json:"admin_token"`
	RedisURL    string            `json:"redis_url"`
	PostgresURL string            `json:"postgres_url"`
	UpstreamURL string            `json:"upstream_url"`
	Policy      string            `json:"policy"`
	PIDs        map[string]int    `json:"pids"`
	Keys        map[string]string `json:"keys"`
}

func startDev(t *testing.T, dir string, args ...string) *devRun {
	t.Helper()
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	d := &devRun{dir: dir, process: launch(t, env, append([]string{"dev", "--dir", dir, "--port", "0", "--admin-port", "0"}, args...)...)}
	require.Eventually(t, func() bool { return d.read() == nil }, 2*patience, 20*time.Millisecond, "dev.json appears once all is up")
	d.await(t, "that it runs", func(line string) bool { return containsAll(line, "creditgate is running") })
	return d
}

// read takes dev.json, strictly: it has the fields of the contract and no others.
func (d *devRun) read() error {
	f, err := os.Open(filepath.Join(d.dir, "dev.json"))
	if err != nil {
		return err
	}
	defer f.Close()
	decoder := json.NewDecoder(f)
	decoder.DisallowUnknownFields()
	d.info = devInfo{}
	return decoder.Decode(&d.info)
}

// curl runs the printed lines whose comment contains says, as somebody who pastes them.
func (d *devRun) curl(t *testing.T, says string) string {
	t.Helper()
	_, after, found := strings.Cut(d.text(), says)
	require.True(t, found, "no line about %q", says)
	_, line, _ := strings.Cut(after, "\n")
	line, _, _ = strings.Cut(line, "\n")
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = t.TempDir() // pictures are written there
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", line, out)
	return string(out)
}

func TestDev(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	d := startDev(t, dir)
	require.Equal(t, map[string]string{"demo-plus": "sk-demo-plus", "demo-empty": "sk-demo-empty"}, d.info.Keys)
	require.Len(t, d.info.PIDs, 4)
	for _, name := range []string{"gateway", "redis", "postgres", "backend"} {
		require.True(t, alive(d.info.PIDs[name]), name)
	}

	picture := d.curl(t, "a picture; what it cost")
	require.Contains(t, picture, "HTTP/1.1 200 OK")
	require.Contains(t, picture, "X-Credits-Charged: 1")
	require.Contains(t, picture, "X-Credits-Remaining: 64")
	refused := d.curl(t, "an account without credit")
	require.Contains(t, refused, "HTTP/1.1 402 Payment Required")
	require.Contains(t, refused, `"code":"insufficient-credits"`)
	require.Contains(t, d.curl(t, "a backend that fails"), "X-Credits-Charged: 0")
	require.Contains(t, d.curl(t, "three photos before a new background"), "X-Credits-Charged: 3")
	require.Contains(t, d.curl(t, "one of them fails, and is not charged"), "X-Credits-Charged: 2")
	require.Contains(t, d.curl(t, "what is left"), `"available":59`)
	require.Contains(t, d.curl(t, "add credit"), `"applied":true`)
	require.Contains(t, d.curl(t, "what was booked"), `"kind":"commit"`)

	status, out := command(t, d.env(), "dev", "--dir", dir)
	require.Equal(t, 1, status)
	require.Contains(t, out, "is running in "+dir+": stop it, or choose another directory with --dir")

	for _, name := range []string{"gateway", "backend", "redis", "postgres"} {
		d.killAndReturn(t, name)
	}
	require.Contains(t, d.curl(t, "what is left"), `"available":59`)
	status, out = command(t, d.env("CREDITGATE_REDIS_URL="+d.info.RedisURL, "CREDITGATE_POSTGRES_URL="+d.info.PostgresURL), "verify")
	require.Zero(t, status, out)

	require.Zero(t, d.interrupt(t, os.Interrupt), d.text())
	for name, pid := range d.info.PIDs {
		require.False(t, alive(pid), "%s is left behind", name)
	}
	require.NoFileExists(t, filepath.Join(dir, "dev.json"))

	kept := startDev(t, dir) // the second make run
	require.Contains(t, kept.curl(t, "what is left"), `"available":59`)
	require.Zero(t, kept.interrupt(t, syscall.SIGTERM), kept.text())
}

func (d *devRun) env(extra ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH")}, extra...)
}

// killAndReturn kills a part, and waits until another process serves in its place, at the same address.
func (d *devRun) killAndReturn(t *testing.T, name string) {
	t.Helper()
	before := d.info
	require.NoError(t, syscall.Kill(before.PIDs[name], syscall.SIGKILL))
	require.Eventually(t, func() bool {
		return d.read() == nil && d.info.PIDs[name] != before.PIDs[name] && alive(d.info.PIDs[name])
	}, patience, 10*time.Millisecond, "%s is started again", name)
	before.PIDs = nil
	after := d.info
	after.PIDs = nil
	require.Equal(t, before, after, "everything else stays where it was")
	require.Eventually(t, func() bool {
		resp, err := http.Get(d.info.AdminURL + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.info.DataURL+"/credits/balance", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer sk-demo-plus")
		balance, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer balance.Body.Close()
		return resp.StatusCode == http.StatusOK && balance.StatusCode == http.StatusOK
	}, patience, 20*time.Millisecond, "the gateway serves after %s died", name)
}

func TestDevLeavesDeadAndStartsOver(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	d := startDev(t, dir, "--no-restart")
	require.Contains(t, d.curl(t, "a picture; what it cost"), "X-Credits-Remaining: 64")
	require.NoError(t, syscall.Kill(d.info.PIDs["backend"], syscall.SIGKILL))
	d.await(t, "that the backend stays dead", func(line string) bool { return containsAll(line, "backend died", "--no-restart") })
	require.Contains(t, d.curl(t, "an account without credit"), "402") // the rest goes on
	require.Zero(t, d.interrupt(t, os.Interrupt), d.text())

	fresh := startDev(t, dir, "--fresh")
	require.Contains(t, fresh.curl(t, "what is left"), `"available":65`)
	require.Zero(t, fresh.interrupt(t, os.Interrupt), fresh.text())
}
