package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// The scenarios of the seed products come out as they say.
func TestSimulateSeeds(t *testing.T) {
	t.Parallel()
	examples := filepath.Join("..", "..", "meter", "policy", "examples")
	scenarios, err := filepath.Glob(filepath.Join(examples, "scenarios", "*.yaml"))
	require.NoError(t, err)
	require.Len(t, scenarios, 3)
	for _, scenario := range scenarios {
		name := filepath.Base(scenario)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			t.Parallel()
			status, out := simulate(t, filepath.Join(examples, name), scenario)
			require.Zero(t, status, out)
			require.Contains(t, out, "\nOK: all ")
			require.Contains(t, out, "\nledger of ")
		})
	}
}

// simulate runs a scenario, and sees that nothing of it is left.
func simulate(t *testing.T, policyFile, scenario string) (status int, out string) {
	t.Helper()
	env, left := simulateEnv(t)
	status, out = command(t, env, "policy", "simulate", policyFile, scenario)
	require.Empty(t, left(), "files that are left")
	return status, out
}

// simulateEnv gives a simulation a directory of its own for what it writes; left is what is in there.
func simulateEnv(t *testing.T) (env []string, left func() []string) {
	t.Helper()
	tmp := t.TempDir()
	require.NoError(t, os.Chmod(tmp, 0o755)) // Postgres may enter it as another user
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + tmp}, func() []string {
		found, err := filepath.Glob(filepath.Join(tmp, "*"))
		require.NoError(t, err)
		return found
	}
}

// writeScenario writes a scenario, and the policy of the background studio, with discounts, beside it.
func writeScenario(t *testing.T, steps string) (policyFile, scenario string) {
	t.Helper()
	dir := t.TempDir()
	src, err := policy.Example("ai-background-studio")
	require.NoError(t, err)
	policyFile, scenario = filepath.Join(dir, "studio.yaml"), filepath.Join(dir, "story.yaml")
	require.NoError(t, os.WriteFile(policyFile, allowDiscounts(t, src), 0o600))
	require.NoError(t, os.WriteFile(scenario, []byte(steps), 0o600))
	return policyFile, scenario
}

// Whatever differs is named by its line, at its row and at the end, and the status is 1.
func TestSimulateTellsEachDifference(t *testing.T) {
	t.Parallel()
	status, out := simulateSteps(t, `- at: 2026-02-28T23:00
  grant: {account: agency, bucket: promo, credits: 5, expires_at: 2026-03-01}
- grant: {account: agency, bucket: purchased, credits: 50}
- request: {account: agency, operation: apply, n: 3, charged: 2}
- request: {account: agency, operation: apply, n: 3, answer: 2 of 3, charged: 2}
- request: {account: agency, operation: apply, n: 2, answer: timeout}
- request: {account: agency, operation: apply, n: 20, times: 3}
- request: {account: agency, operation: revert, expect: 402}
- expect: {account: agency, available: 51, held: 1, buckets: {promo: 0, purchased: 50}, plan: basic, next_reset: 2026-03-01}
- advance: 1d
- expect: {account: agency, available: 10, buckets: {promo: 0, purchased: 10}}
`)
	require.Equal(t, 1, status, out)
	for _, want := range [...]string{
		":4: X-Credits-Charged is \"3\", must be 2",
		":7: answered 402 insufficient-credits, must succeed: 20 credits are needed, 10 available",
		":7: in request 3 of 3",
		":8: answered 200, must be 402",
		":9: available of agency is 10, must be 51",
		":9: held of agency is 0, must be 1",
		":9: plan of agency is none, must be basic",
		":9: next_reset of agency is none, must be 2026-03-01T00:00:00",
		"4 of 10 steps differ:",
	} {
		require.Contains(t, out, want)
	}
	require.Contains(t, out, "2026-02-28 23:00  agency   apply of 2, no answer          0         0         0         50  504 upstream-timeout\n")
	require.Equal(t, 2, strings.Count(out, ":4: "), "at its row, and at the end")
}

// Each action does what it says: packs are paid, overdue, frozen and taken back, disputes are won, terms negotiated,
// subscriptions ended at once.
func TestSimulateEveryAction(t *testing.T) {
	t.Parallel()
	policyFile, scenario := writeScenario(t, `- at: 2026-05-01T09:00
  account: agency
- subscribe: {account: agency, plan: professional, slots: 4, period: monthly, starts_at: 2026-05-01T09:00}
- purchase: {account: agency, pack: plus-50, quantity: 2, ref: order-1, net_minor: 9000, currency: EUR}
- expect: {account: agency, buckets: {monthly: 20, purchased: 100}, debt: 0}
- request: {account: agency, operation: apply, n: 40}
- pay: {ref: order-1, status: overdue}
- expect: {account: agency, buckets: {monthly: 0, purchased: 0}}
- pay: {ref: order-1}
- expect: {account: agency, buckets: {monthly: 0, purchased: 80}}
- advance: 1h
- pay: {ref: order-1, status: overdue, at: 2026-05-01T09:30}
- expect: {account: agency, buckets: {monthly: 0, purchased: 0}}
- pay: {ref: order-1, at: 2026-05-01T09:45}
- expect: {account: agency, buckets: {monthly: 0, purchased: 80}}
- purchase: {account: agency, pack: plus-50, ref: order-2, purchased_at: 2026-05-01T09:10, paid_at: 2026-05-01T09:20}
- pay: {ref: order-2, status: overdue, at: 2026-05-01T09:15}
- expect: {account: agency, buckets: {monthly: 0, purchased: 130}}
- refund: {account: agency, purchase: order-2, reason: error, ref: double-1}
- refund: {account: agency, purchase: order-1, reason: chargeback, ref: dispute-1}
- expect: {account: agency, available: 0}
- reverse: {account: agency, ref: dispute-1}
- expect: {account: agency, debt: 0}
- override: {account: agency, kind: unit_credits, target: apply, credits: 0.5, ref: contract-1}
- override: {account: agency, kind: contingent, target: monthly, credits: 500, from: 2026-06-01, until: 2026-07-01, ref: contract-2}
- grant: {account: agency, bucket: promo, credits: 2.5, expires_at: 2026-06-01, ref: sorry-1}
- at: 2026-05-02T09:00
  request: {account: agency, method: POST, path: /studio/apply, n: 2, charged: 1}
- request: {account: agency, operation: apply, body: {photos: [a, b], background: wall}, charged: 1, key: once-1}
- request: {account: agency, operation: apply, body: {photos: [a], background: wall}, answer: {status: 422, body: {error: no}}, charged: 0}
- expect: {account: agency, buckets: {promo: 0.5}}
- at: 2026-06-01T00:00
  expect: {account: agency, buckets: {promo: 0, monthly: 500}, next_reset: 2026-07-01, next_reset_credits: 20, plan: professional}
- cancel: {account: agency, at: now}
- expect: {account: agency, buckets: {monthly: 500}, plan: none, next_reset: none}     # what was paid for stays until it ends
`)
	src, err := os.ReadFile(policyFile)
	require.NoError(t, err)
	src = []byte(strings.Replace(string(src), "grant_on: invoice", "grant_on: invoice, on_overdue: freeze", 1))
	require.NoError(t, os.WriteFile(policyFile, src, 0o600))
	status, out := simulate(t, policyFile, scenario)
	require.Zero(t, status, out)
}

// Steps at one moment happen one after another, as they stand.
func TestSimulateKeepsTheOrderOfAMoment(t *testing.T) {
	t.Parallel()
	status, out := simulateSteps(t, `- at: 2026-03-01T09:00
  subscribe: {account: agency, plan: basic, slots: 3}
- subscribe: {account: agency, plan: professional_plus, slots: 5}
- purchase: {account: agency, pack: plus-50}
- cancel: {account: agency, at: now}
- purchase: {account: agency, pack: plus-50, expect: 403 subscription-required}
- subscribe: {account: agency, plan: professional_plus, slots: 6}
- expect: {account: agency, plan: professional_plus, buckets: {monthly: 60, purchased: 50}}
- subscribe: {account: agency, plan: professional, slots: 1}
- expect: {account: agency, plan: professional_plus, next_reset_credits: 5}
`)
	require.Zero(t, status, out)
}

// A mistake in a file is told before anything is started.
func TestSimulateRefusesMistakes(t *testing.T) {
	t.Parallel()
	policyFile, scenario := writeScenario(t, "- at: 2026-03-01\n  subscribe: {account: agency, plan: basik}\n")
	status, out := simulate(t, policyFile, scenario)
	require.Equal(t, 1, status)
	require.Equal(t, scenario+":2:38: [0].subscribe.plan: \"basik\" is not a plan; did you mean basic?\n", out)
}

// Ctrl-C in the middle of a story ends everything that was started, and leaves nothing.
func TestSimulateStopsAtOnce(t *testing.T) {
	t.Parallel()
	policyFile, scenario := writeScenario(t, `- at: 2026-03-01
  grant: {account: agency, bucket: purchased, credits: 50}
- request: {account: agency, operation: apply, n: 1, answer: timeout, times: 10000}
`)
	env, left := simulateEnv(t)
	p := launch(t, env, "policy", "simulate", policyFile, scenario)
	p.await(t, "that it granted", func(line string) bool { return strings.Contains(line, "grant 50 purchased") })
	require.NotEmpty(t, left())
	require.Equal(t, 2, p.interrupt(t, syscall.SIGINT), p.text())
	require.Contains(t, p.text(), "stopped before the end")
	require.Empty(t, left())

	p = launch(t, env, "policy", "simulate", policyFile, scenario) // and while everything is being started
	require.Eventually(t, func() bool { return len(left()) > 0 }, patience, time.Millisecond)
	require.Equal(t, 2, p.interrupt(t, syscall.SIGINT), p.text())
	require.Empty(t, left())
}

func simulateSteps(t *testing.T, steps string) (status int, out string) {
	t.Helper()
	policyFile, scenario := writeScenario(t, steps)
	return simulate(t, policyFile, scenario)
}
