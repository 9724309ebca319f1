package main_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist/persisttest"
)

// Two gateways with different policy files know it, both of them, and show which versions they go by.
func TestGatewaysWithDifferentPoliciesKnowIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	first := w.serve(t)
	src, err := os.ReadFile(w.policy)
	require.NoError(t, err)
	other := *w
	other.policy = filepath.Join(t.TempDir(), "dev.yaml")
	other.journal = filepath.Join(t.TempDir(), "journal")
	require.NoError(t, os.WriteFile(other.policy, []byte(strings.Replace(string(src), "max: 10", "max: 9", 1)), 0o600))
	// The first round of the first gateway has recorded its policy before the second one starts.
	pool := persisttest.Open(t, w.database, meter.Layout{Number: 1, Partitions: 1}).Pool()
	require.Eventually(t, func() (there bool) {
		return pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM creditgate.policy_in_force)`).Scan(&there) == nil && there
	}, patience, 20*time.Millisecond)
	second := other.serve(t)
	second.await(t, "that its policy differs", func(line string) bool {
		return containsAll(line, `"level":"warn"`, "started with another policy than the one in force")
	})
	first.await(t, "that its policy is not in force", func(line string) bool {
		return containsAll(line, `"level":"warn"`, "another gateway has put another policy in force", `"in_force"`)
	})
	versions := map[string]bool{policyInfo(t, first): true, policyInfo(t, second): true}
	require.Len(t, versions, 2)
	require.NoError(t, os.WriteFile(other.policy, src, 0o600))
	second.must(t, "POST", "/v1/policy/reload", "")
	require.Equal(t, policyInfo(t, first), policyInfo(t, second), "only the version in force is shown")
}

// policyInfo is the one series of creditgate_policy_info.
func policyInfo(t *testing.T, g *gateway) (series string) {
	t.Helper()
	resp, err := http.Get(g.admin + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "creditgate_policy_info{") {
			require.Empty(t, series, "one version of one product")
			series = line
		}
	}
	require.Contains(t, series, `product="dev",version="`)
	return series
}

// A gateway that connects as the owner of the schema warns of it.
func TestOwnerIsWarnedOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.database = persisttest.AsOwner(t, w.database)
	g := w.serve(t)
	g.await(t, "that its login may do too much", func(line string) bool {
		return containsAll(line, `"level":"warn"`, "postgres_url", "is a superuser", "creditgate_writer")
	})
}
