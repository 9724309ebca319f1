package main_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// mutant is a mistake in one line of a seed's policy that breaks a rule.
type mutant struct {
	id       string
	n        int // among those of the rule
	old, new string
	refused  bool // the rule is that such a policy is refused: exactly three packs, and cheaper the larger
}

// grantOnPayment is a setting that the seeds without a line for it do not have.
const grantOnPayment = "unmatched: refuse\npurchases: {grant_on: payment}"

func mutantsA() []mutant {
	const never150, fourWeeks150 = "price: 1200.00 TRY, expires: never", "price: 1200.00 TRY, expires: {after: 4w}"
	return []mutant{
		{id: "A1", old: "match: POST /v1/images/generations", new: "match: POST /v1/images/edits"},
		{id: "A2", old: "credits: 1\n", new: "credits: 2\n"},
		{id: "A3", old: "unmatched: refuse", new: grantOnPayment},
		{id: "A4", old: "credits: 15, price: 150.00 TRY, expires: never", new: "credits: 15, price: 150.00 TRY, expires: {after: 1y}"},
		{id: "A5", old: "delivered: len(response.data)", new: "delivered: len(response.images)"},
		{id: "A6", old: "credits: 50, price: 450.00 TRY, expires: never", new: "credits: 50, price: 450.00 TRY, expires: {after: 4w}"},
		{id: "A7", old: "credits: 15, price", new: "credits: 16, price"},
		{id: "A8", old: "unmatched: refuse", new: grantOnPayment},
		{id: "A2", old: "credits: 1\n", new: "credits: 'body.size == \"256x256\" ? 3 : 1'\n"},
		{id: "A4", old: never150, new: fourWeeks150},
		{id: "A6", old: never150, new: fourWeeks150},
	}
}

func mutantsB() []mutant {
	const applyPriced = "require:\n" +
		"      - that: given(body.background) or given(form.background) or given(parts.background)\n" +
		"        else: A background is missing. Every transformation needs one; a logo alone cannot be applied.\n" +
		"    units: len(body.photos) ?? len(parts.photos)\n    max: 50\n    credits: 1\n" +
		"    delivered: count(response.results, .status == \"ok\")\n"
	const plus, one = "professional_plus: {monthly: {credits: slots * 10}", "credits: 1\n"
	const basic100 = "credits: 100, price: 95.00 EUR, expires: {after: 1y}"
	return []mutant{
		{id: "B1", old: one, new: "credits: 0.5\n"},
		{id: "B2", old: "given(body.background)", new: "given(body.photos)"},
		{id: "B2", old: "given(form.background)", new: "given(body.logo)"},
		{id: "B2", old: "given(parts.background)", new: "given(parts.logo)"},
		{id: "B2", old: "unmatched: refuse", new: "unmatched: pass"},
		{id: "B3", old: one, new: "credits: 'body.logo != nil ? 2 : 1'\n"},
		{id: "B4", old: one, new: "credits: 'body.background == \"#dde7f0\" ? 1 : 0.001'\n"},
		{id: "B5", old: "{match: POST /studio/revert, credits: 0}", new: "{match: POST /studio/revert, credits: 1}"},
		{id: "B6", old: "{match: POST /studio/report, credits: 0}", new: "{match: POST /studio/report, credits: 1}"},
		{id: "B5", old: "/studio/revert, credits: 0}", new: "/studio/revert, credits: 0, at_zero: refuse}"},
		{id: "B6", old: "/studio/report, credits: 0}", new: "/studio/report, credits: 0, at_zero: refuse}"},
		{id: "B7", old: "?? len(parts.photos)", new: "?? 1"},
		{id: "B7", old: "units: len(body.photos)", new: "units: min(len(body.photos), 2)"},
		{id: "B8", old: one, new: "credits: 'body.logo != nil ? 0.5 : 1'\n"},
		{id: "B9", old: one, new: "credits: 'body.logo != nil ? 0.001 : 1'\n"},
		{id: "B10", old: plus, new: "professional_plus: {monthly: {credits: 50}"},
		{id: "B11", old: "fair_use: 20000}}", new: "fair_use: 19950}}"},
		{id: "B12", old: plus, new: "professional_plus: {monthly: {credits: slots * 9}"},
		{id: "B13", old: "slots * 5}", new: "slots * 6}"},
		{id: "B14", old: "basic:             {packs", new: "basic:             {monthly: {credits: slots}, packs"},
		{id: "B15", old: "{day_of_month: 1}}", new: "{day_of_month: 2}}"},
		{id: "B16", old: "{day_of_month: 1}}", new: "{day_of_month: 15}}"},
		{id: "B17", old: "{wait_days: 7}", new: "{wait_days: 1}"},
		{id: "B18", old: "lasts: 4w", new: "lasts: 5w"},
		{id: "B19", old: "[promo, monthly, purchased]", new: "[monthly, promo, purchased]"},
		{id: "B20", old: "lasts: 4w, credits: slots * 10", new: "lasts: 4w, credits: slots * 5"},
		{id: "B21", old: "starts: 2026-03-16", new: "starts: 2026-03-23"},
		{id: "B22", old: "per: cycle", new: "per: window"},
		{id: "B23", old: applyPriced, new: "credits: 0\n"},
		{id: "B24", old: "slots * 5}", new: "slots * 5}, purchased: {credits: 50}"},
		{id: "B25", old: "grant_on: invoice", new: "grant_on: payment"},
		{id: "B26", old: basic100, new: "credits: 100, price: 95.00 EUR, expires: {after: 6mo}"},
		{id: "B26", old: "price: 160.00 EUR, expires: {after: 1y}", new: "price: 160.00 EUR, expires: never"},
		{id: "B26", old: "price: 1500.00 EUR, expires: {after: 1y}", new: "price: 1500.00 EUR, expires: {after: 2w}"},
		{id: "B27", old: "promo: launch, packs: [plus-50, plus-200, plus-500]", new: "promo: launch, packs: [plus-50, plus-200]", refused: true},
		{id: "B28", old: "price: 160.00 EUR", new: "price: 190.00 EUR", refused: true},
		{id: "B28", old: "price: 160.00 EUR", new: "price: 180.00 EUR", refused: true},
		{id: "B29", old: "discounts: none", new: "discounts: allowed"},
		{
			id: "B30", old: "promo: launch, packs: [plus-50, plus-200, plus-500]",
			new: "promo: launch, packs: [basic-100, basic-500, basic-2000]",
		},
		{id: "B31", old: "grant_on: invoice", new: "grant_on: payment"},
		{id: "B32", old: "[promo, monthly, purchased]", new: "[promo, purchased, monthly]"},
		{id: "B33", old: "[promo, monthly, purchased]", new: "[purchased, promo, monthly]"},
		{id: "B34", old: "{unlimited: true, fair_use: 20000}", new: "{credits: 20000}"},
		{id: "B35", old: "plus-50:    {bucket: purchased", new: "plus-50:    {bucket: monthly"},
	}
}

func mutantsC() []mutant {
	const extra200 = "credits: 200, price: 6.00 USD, "
	return []mutant{
		{id: "C1", old: extra200, new: "credits: 201, price: 6.00 USD, "},
		{id: "C2", old: extra200 + "expires: next_renewal", new: extra200 + "expires: {after: 1mo}"},
		{id: "C3", old: "unmatched: refuse", new: "unmatched: refuse\npurchases: {while_credit_left: refuse}"},
		{
			id: "C4", old: "credits: 1000, price: 25.00 USD, expires: next_renewal",
			new: "credits: 1000, price: 25.00 USD, expires: {after: 4w}",
		},
		{id: "C5", old: "{anchor: subscription_start}", new: "{anchor: {day_of_month: 1}}"},
		{
			id: "C6", old: "  extra-200:",
			new: "  open-200: {bucket: pack, " + extra200 + "expires: {after: 1mo}, needs_subscription: false}\n  extra-200:",
		},
		{id: "C7", old: "extra-1000: {bucket: pack", new: "extra-1000: {bucket: subscription"},
		{id: "C8", old: "pro:     {subscription: {credits: 2000}", new: "pro:     {subscription: {unlimited: true, fair_use: 2000, after_cap: draw}"},
		{id: "C9", old: "[subscription, pack]", new: "[pack, subscription]"},
		{id: "C10", old: extra200 + "expires: next_renewal, refundable: false", new: extra200 + "expires: next_renewal, refundable: true"},
		{
			id: "C10", old: "price: 25.00 USD, expires: next_renewal, refundable: false",
			new: "price: 25.00 USD, expires: next_renewal, refundable: true",
		},
		{id: "C11", old: "/3d/trial, credits: 0}", new: "/3d/trial, credits: 0, at_zero: refuse}"},
		{id: "C11", old: "{match: POST /3d/trial, credits: 0}", new: "{match: POST /3d/trial, credits: 1}"},
		{id: "C12", old: `"pro": 38`, new: `"pro": 39`},
		{id: "C13", old: "unmatched: refuse", new: grantOnPayment},
		{id: "C14", old: "match: POST /3d/style-transfer", new: "match: POST /3d/style"},
	}
}

// mutants are all of them, each with its number among those of its rule.
func mutants() []mutant {
	all := append(append(mutantsA(), mutantsB()...), mutantsC()...)
	n := map[string]int{}
	for i := range all {
		n[all[i].id]++
		all[i].n = n[all[i].id]
	}
	return all
}

// key is the mutant in the names of its accounts.
func (m mutant) key() string { return fmt.Sprintf("%s-%d", m.id, m.n) }

// name is the product of a mutant: all of them run in one gateway.
func (m mutant) name() string { return seedOf(m.id) + "-" + strings.ToLower(m.key()) }

// source is the mutated policy.
func (m mutant) source(t *testing.T) string {
	t.Helper()
	src := seedSource(t, seedOf(m.id))
	require.Equal(t, 1, strings.Count(src, m.old), "%s: %q must be one place of the policy", m.id, m.old)
	src = strings.Replace(src, m.old, m.new, 1)
	return strings.Replace(src, "name: "+seedOf(m.id), "name: "+m.name(), 1)
}

// Each rule's test is worth something: one line of the policy changed, and it fails. A change that makes the policy
// unreadable proves nothing, unless refusing it is the rule.
func TestPolicyMutants(t *testing.T) {
	t.Parallel()
	rules := map[string]rule{}
	for _, r := range seedRules() {
		rules[r.id] = r
	}
	policies, parsed, caught := map[string]string{}, map[string]*policy.Policy{}, map[string]error{}
	for _, m := range mutants() {
		src := m.source(t)
		p, err := policy.Parse(m.name(), []byte(src))
		switch {
		case err != nil:
			require.True(t, m.refused, "%s does not load, and that is not the rule: %s", m.key(), err)
			caught[m.key()] = err
		default:
			require.False(t, m.refused, "%s must be refused", m.key())
			policies[m.name()], parsed[m.key()] = src, p
		}
	}
	w := newSeedWorld(t, policies)
	plays := map[string]func() error{}
	for _, m := range mutants() {
		if p, loads := parsed[m.key()]; loads {
			player := newPlayer(t, w, m.key(), p)
			plays[m.key()] = func() error { return player.run(rules[m.id].play) }
		}
	}
	maps.Copy(caught, playAll(w, plays))
	require.NoError(t, w.broken, "the clock stood still")
	n := 0
	table := tabwriter.NewWriter(t.Output(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "rule\tmutation\tcaught\tby the step\twhich says")
	for _, m := range mutants() {
		yes := "NO"
		if caught[m.key()] != nil {
			yes = "yes"
			n++
		}
		step, differs := why(t, caught[m.key()])
		fmt.Fprintf(table, "%s\t%s  →  %s\t%s\t%s\t%s\n", m.id, oneLine(m.old), oneLine(m.new), yes, step, differs)
	}
	require.NoError(t, table.Flush())
	fmt.Fprintf(t.Output(), "%d of %d mutants are caught, of %d rules\n", n, len(mutants()), len(rules))
	require.Len(t, mutants(), n)
	for id := range rules {
		require.True(t, slices.ContainsFunc(mutants(), func(m mutant) bool { return m.id == id }), "%s has no mutant", id)
	}
}

// oneLine is a text on one line, as far as a table has room for it.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return s[:min(len(s), 80)]
}

// stepOf finds in the trace of a failure the step of the play that failed.
var stepOf = regexp.MustCompile(`(seed_rules\w*_test\.go):(\d+)`)

// why is what the play did when it failed, as its source has it, and what differed there, so that a reader can judge
// whether that is the rule. A policy that was refused has no play.
func why(t *testing.T, err error) (step, differs string) {
	t.Helper()
	if err == nil {
		return "", ""
	}
	text := err.Error()
	at := stepOf.FindStringSubmatch(text)
	if at == nil {
		return "the policy is refused", short(text)
	}
	source, err := os.ReadFile(at[1])
	require.NoError(t, err)
	line, err := strconv.Atoi(at[2])
	require.NoError(t, err)
	step = strings.TrimSpace(strings.Split(string(source), "\n")[line-1])
	_, text, _ = strings.Cut(text, "Error:")
	said, message, _ := strings.Cut(text, "Messages:")
	said, _, _ = strings.Cut(said, "Diff:")
	return at[0] + ": " + strings.TrimPrefix(step, "require."), short(said + " " + message)
}

// short is a text on one line, as far as a table has room for it.
func short(text string) string {
	text = strings.TrimPrefix(strings.Join(strings.Fields(text), " "), "Not equal: ")
	text = strings.ReplaceAll(text, "actual :", "actual:")
	return text[:min(len(text), 100)]
}
