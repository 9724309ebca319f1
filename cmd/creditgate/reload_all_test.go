package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/persist/persisttest"
)

// reloaded is the answer to a reload, done or not.
type reloaded struct {
	Code     string `json:"code"`
	Detail   string `json:"detail"`
	Policies []struct {
		Version string `json:"version"`
	} `json:"policies"`
	Gateways []struct {
		Gateway  string            `json:"gateway"`
		Policies map[string]string `json:"policies"`
		Answered bool              `json:"answered"`
		Error    string            `json:"error"`
		SeenAt   time.Time         `json:"seen_at"`
	} `json:"gateways"`
}

func (g *gateway) reload(t *testing.T) (status int, r reloaded) {
	t.Helper()
	status, answer := g.ask(t, "POST", "/v1/policy/reload", "")
	require.NoError(t, json.Unmarshal([]byte(answer), &r), answer)
	return status, r
}

// settled reloads until every gateway has answered: a busy machine may need more time than one call gives.
func (g *gateway) settled(t *testing.T) (status int, r reloaded) {
	t.Helper()
	require.Eventually(t, func() bool {
		status, r = g.reload(t)
		for _, has := range r.Gateways {
			if !has.Answered {
				return false
			}
		}
		return true
	}, patience, time.Millisecond, "%+v", r)
	return status, r
}

// port is the end of a gateway's name.
func (g *gateway) port() string { return g.admin[strings.LastIndex(g.admin, ":"):] }

// ofPort is what the answer says of one gateway, by its place in the list.
func (r reloaded) ofPort(t *testing.T, g *gateway) int {
	t.Helper()
	for i, has := range r.Gateways {
		if strings.HasSuffix(has.Gateway, g.port()) {
			return i
		}
	}
	require.FailNow(t, "the gateway is not in the answer", "%s: %+v", g.port(), r)
	return -1
}

// pair is a world with two gateways, each with files of its own, that know each other.
type pair struct {
	*world

	first, second *gateway
	secondPolicy  string
	src           string
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{world: newWorld(t, nil)}
	src, err := os.ReadFile(p.policy)
	require.NoError(t, err)
	p.src = string(src)
	other := *p.world
	other.policy, other.journal = filepath.Join(t.TempDir(), "dev.yaml"), filepath.Join(t.TempDir(), "journal")
	p.secondPolicy = other.policy
	p.write(t, p.secondPolicy, "max: 10")
	p.first, p.second = p.serve(t), other.serve(t)
	return p
}

// write puts a policy file in place whose operation has other words in the place of "max: 10".
func (p *pair) write(t *testing.T, path, words string) {
	t.Helper()
	require.Contains(t, p.src, "max: 10")
	require.NoError(t, os.WriteFile(path+".next", []byte(strings.Replace(p.src, "max: 10", words, 1)), 0o600))
	require.NoError(t, os.Rename(path+".next", path))
}

// A reload on one gateway lets every gateway read its own files, and answers with the version of each. Where one keeps
// what it had, or reads something else, the answer is a 409 that names it.
func TestReloadReachesEveryGateway(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	before := policyInfo(t, p.first)
	require.Equal(t, before, policyInfo(t, p.second))
	p.write(t, p.policy, "max: 9")
	p.write(t, p.secondPolicy, "max: 9")
	status, r := p.first.settled(t)
	require.Equal(t, policyInfo(t, p.first), policyInfo(t, p.second), "both have read their files")
	require.NotEqual(t, before, policyInfo(t, p.second))
	require.Equal(t, 200, status, "%+v", r)
	require.Len(t, r.Policies, 1)
	require.Len(t, r.Gateways, 2)
	for _, g := range r.Gateways {
		require.True(t, g.Answered)
		require.Empty(t, g.Error)
		require.Equal(t, map[string]string{"dev": r.Policies[0].Version}, g.Policies)
	}

	// A mistake in one gateway's files: it keeps what it had, and the other one says so.
	p.write(t, p.policy, "max: 8")
	p.write(t, p.secondPolicy, "max: many")
	status, r = p.first.settled(t)
	require.Equal(t, 409, status, "%+v", r)
	require.Equal(t, "policies-differ", r.Code)
	kept := r.Gateways[r.ofPort(t, p.second)]
	require.True(t, kept.Answered)
	require.Contains(t, kept.Error, p.secondPolicy+":")
	require.Contains(t, r.Detail, p.second.port()+" keeps its policies, and its error says why")
	require.NotContains(t, r.Detail, p.first.port())
	require.NotEqual(t, policyInfo(t, p.first), policyInfo(t, p.second))

	// On the gateway with the mistake it is today's answer, and no other gateway is asked.
	status, r = p.second.reload(t)
	require.Equal(t, 422, status, "%+v", r)
	require.Empty(t, r.Gateways)

	// Another version without a mistake.
	p.write(t, p.secondPolicy, "max: 7")
	status, r = p.first.settled(t)
	require.Equal(t, 409, status, "%+v", r)
	require.Contains(t, r.Detail, p.second.port()+" has other files")
	require.Empty(t, r.Gateways[r.ofPort(t, p.second)].Error)

	// SIGHUP is for one process.
	p.write(t, p.policy, "max: 6")
	p.write(t, p.secondPolicy, "max: 6")
	has, had := policyInfo(t, p.second), policyInfo(t, p.first)
	require.NoError(t, p.first.cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return policyInfo(t, p.first) != had }, patience, 20*time.Millisecond)
	require.Equal(t, has, policyInfo(t, p.second))

	// Two at once end with the same files everywhere.
	var both sync.WaitGroup
	for _, g := range []*gateway{p.first, p.second} {
		both.Go(func() {
			if status, answer := g.ask(t, "POST", "/v1/policy/reload", ""); status != 200 && !strings.Contains(answer, "did not answer") {
				t.Errorf("%d: %s", status, answer)
			}
		})
	}
	both.Wait()
	status, r = p.second.settled(t)
	require.Equal(t, 200, status, "%+v", r)
	require.Equal(t, policyInfo(t, p.first), policyInfo(t, p.second))

	// Who has left in order is not waited for.
	require.Zero(t, p.second.interrupt(t, syscall.SIGTERM))
	status, r = p.first.reload(t)
	require.Equal(t, 200, status, "%+v", r)
	require.Len(t, r.Gateways, 1)
}

// reloads counts the reloads that a gateway has done.
func (g *gateway) reloads(t *testing.T) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(g.text()) {
		if strings.Contains(line, `"policy reloaded"`) {
			n++
		}
	}
	return n
}

// A gateway that was killed is named as one that did not answer. One that starts in its place reads the files at its start,
// and no second time for a request that is older.
func TestReloadNamesWhoIsSilent(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	status, r := p.first.settled(t)
	require.Equal(t, 200, status, "%+v", r)
	require.Len(t, r.Gateways, 2)
	p.second.kill()
	p.write(t, p.policy, "max: 9")
	status, r = p.first.reload(t)
	require.Equal(t, 409, status, "%+v", r)
	silent := r.Gateways[r.ofPort(t, p.second)]
	require.False(t, silent.Answered)
	require.False(t, silent.SeenAt.IsZero())
	require.Contains(t, r.Detail, p.second.port()+" did not answer")
	require.Contains(t, policyInfo(t, p.first), r.Gateways[r.ofPort(t, p.first)].Policies["dev"], "here they are in force")

	// The last request is older than the start of the third gateway, by more than its files can have been read too early.
	persisttest.Tamper(t, p.database,
		`UPDATE creditgate.policy_reload SET requested_at = now() - interval '1 minute'`,
		`DELETE FROM creditgate.gateway WHERE name LIKE '%`+p.second.port()+`'`)
	other := *p.world
	other.journal = filepath.Join(t.TempDir(), "journal")
	third := other.serve(t)
	pool := persisttest.Open(t, p.database, meter.Layout{Number: 1, Partitions: 1}).Pool()
	require.Eventually(t, func() (there bool) {
		return pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM creditgate.gateway g, creditgate.policy_reload r
			WHERE g.name LIKE '%' || $1 AND g.reload = r.number)`, third.port()).Scan(&there) == nil && there
	}, patience, 20*time.Millisecond, "the third gateway does not say where it stands")
	require.Zero(t, third.reloads(t))
	status, r = p.first.settled(t)
	require.Equal(t, 200, status, "%+v", r)
	require.Len(t, r.Gateways, 2)
	require.Positive(t, third.reloads(t))
}
