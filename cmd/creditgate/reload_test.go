package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// SIGHUP and the control plane put changed files in force; a mistake changes nothing and says where it is.
func TestPolicyReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	key := g.account(t, "acme", "purchased", 100)
	charge := func() string {
		t.Helper()
		r, err := generate(t.Context(), http.DefaultClient, g.data, key)
		require.NoError(t, err)
		require.Equal(t, 200, r.status, r.body)
		return r.charged
	}
	src, err := os.ReadFile(w.policy)
	require.NoError(t, err)
	const price = "max: 10\n    credits: 1\n"
	require.Contains(t, string(src), price)
	write := func(text string) {
		t.Helper()
		next := w.policy + ".next"
		require.NoError(t, os.WriteFile(next, []byte(strings.Replace(string(src), price, text, 1)), 0o600))
		require.NoError(t, os.Rename(next, w.policy))
	}
	said := func(what string) func(string) bool {
		return func(line string) bool { return strings.Contains(line, what) }
	}
	require.Equal(t, "1", charge())

	write("max: 10\n    credits: 2\n")
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGHUP))
	g.await(t, "that it has reloaded", said("policy reloaded"))
	require.Equal(t, "2", charge())

	write("max: 10\n    credits: TBD\n")
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGHUP))
	line := g.await(t, "what is wrong", said("policies not reloaded"))
	require.Contains(t, line, filepath.Base(w.policy)+":")
	require.Equal(t, "2", charge(), "the old one stays")
	status, answer := g.ask(t, "POST", "/v1/policy/reload", "")
	require.Equal(t, 422, status)
	var p struct {
		Code     string `json:"code"`
		Problems []struct {
			File string `json:"file"`
			Path string `json:"path"`
			Line int    `json:"line"`
		} `json:"problems"`
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &p))
	require.Equal(t, "invalid-policy", p.Code)
	require.Len(t, p.Problems, 1)
	require.Equal(t, w.policy, p.Problems[0].File)
	require.Positive(t, p.Problems[0].Line)
	require.Equal(t, "operations.generate.credits", p.Problems[0].Path)

	write("max: 10\n    credits: 3\n")
	g.must(t, "POST", "/v1/policy/reload", "")
	require.Equal(t, "3", charge())

	other := strings.Replace(string(src), "name: ", "name: another-", 1)
	require.NoError(t, os.WriteFile(w.policy, []byte(other), 0o600))
	status, answer = g.ask(t, "POST", "/v1/policy/reload", "")
	require.Equal(t, 422, status)
	require.Contains(t, answer, "it has 1 account;")
	require.Equal(t, "3", charge())
	require.Zero(t, g.interrupt(t, syscall.SIGTERM))
	w.verified(t)
}
