package main_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

var playGenerated = flag.Bool("generated", false, "play every mutant that is made of the seeds' policies, which takes minutes")

// mutantsOfWorld bounds the mutants that share a gateway, and with them the players that wait for its clock.
const mutantsOfWorld = 40

// survivorsFile lists the mutants that every rule's play passes, each with the reason: product, edit, reason.
const survivorsFile = "testdata/policy-survivors.txt"

// generated is a mutant that was made of a seed's policy.
type generated struct {
	seed, edit string
	key        string
	source     string
	parsed     *policy.Policy
	rules      []string // that are likely to notice, by what was changed
	caught     string   // by which rule; "" by none
	why        string   // what its play said
}

// likely are the rules that a part of a policy is about, so that not every mutant plays all of them first.
func likely() map[string]string {
	return map[string]string{
		"ai-background-studio/buckets":    "B19 B32 B33 B35",
		"ai-background-studio/cycle":      "B15 B16 B17",
		"ai-background-studio/plans":      "B10 B12 B13 B14 B20 B27 B30 B34",
		"ai-background-studio/promotions": "B18 B20 B21 B22",
		"ai-background-studio/packs":      "B26 B27 B28 B30 B35",
		"ai-background-studio/purchases":  "B25 B29 B31",
		"ai-background-studio/advice":     "B17",
		"ai-background-studio/operations": "B1 B2 B5 B6 B7 B23",
		"3d-studio/plans":                 "C1 C5 C6 C8",
		"3d-studio/packs":                 "C1 C2 C4 C5 C6 C10",
		"3d-studio/operations":            "C11 C12 C14",
	}
}

// generateMutants makes the mutants of all seeds. refused counts those that do not load, so that no gateway serves them.
func generateMutants(t *testing.T) (all []*generated, refused int) {
	t.Helper()
	for _, seed := range [...]string{"visual-foundry", "ai-background-studio", "3d-studio"} {
		src := seedSource(t, seed)
		for n, e := range editsOf(t, src) {
			key := fmt.Sprintf("%c%d", seedLetter(seed), n)
			source := strings.Replace(e.apply(src), "name: "+seed, "name: "+key, 1)
			p, err := policy.Parse(key, []byte(source))
			if err != nil {
				refused++
				continue
			}
			g := &generated{seed: seed, edit: e.name(src), key: key, source: source, parsed: p}
			part, _, _ := strings.Cut(e.path, ".")
			g.rules = strings.Fields(likely()[seed+"/"+part])
			if len(g.rules) == 0 {
				g.rules = rulesOf(seed)
			}
			all = append(all, g)
		}
	}
	return all, refused
}

func seedLetter(seed string) byte {
	return map[string]byte{"visual-foundry": 'A', "ai-background-studio": 'B', "3d-studio": 'C'}[seed]
}

// rulesOf are a seed's rules. B11 uses a whole fair-use cap up, so it is played last.
func rulesOf(seed string) (ids []string) {
	for _, r := range seedRules() {
		if seedOf(r.id) == seed && r.id != "B11" {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// playGeneration plays so many rules of each mutant as are likely to notice it.
func playGeneration(t *testing.T, mutants []*generated) {
	t.Helper()
	rules := map[string]rule{}
	for _, r := range seedRules() {
		rules[r.id] = r
	}
	zones := map[string]*time.Location{}
	for _, g := range mutants {
		if zones[g.seed] == nil {
			seed, err := policy.Parse(g.seed, []byte(seedSource(t, g.seed)))
			require.NoError(t, err)
			zones[g.seed] = seed.Location
		}
	}
	for chunk := range slices.Chunk(mutants, mutantsOfWorld) {
		t.Run("", func(t *testing.T) { // each world has the machine to itself
			policies := map[string]string{}
			for _, g := range chunk {
				policies[g.key] = g.source
			}
			w := newSeedWorld(t, policies)
			plays := map[string]func() error{}
			for _, g := range chunk {
				for _, id := range g.rules {
					player := newPlayer(t, w, g.key+"-"+id, g.parsed)
					player.zone = zones[g.seed] // the rule's, whatever the mutant's is
					plays[g.key+" "+id] = func() error { return player.run(rules[id].play) }
				}
			}
			results := playAll(w, plays)
			require.NoError(t, w.broken, "the clock stood still")
			for _, g := range chunk {
				for _, id := range g.rules {
					if g.caught == "" && results[g.key+" "+id] != nil {
						g.caught = id
						_, g.why = why(t, results[g.key+" "+id])
					}
				}
			}
		})
	}
}

func survivors(mutants []*generated) []*generated {
	return slices.DeleteFunc(slices.Clone(mutants), func(g *generated) bool { return g.caught != "" })
}

// Each mistake that can be made in one place of a seed's policy is refused at load, or a rule's play fails by it, or it
// stands in the list of survivors with the reason why no rule can tell. Without -generated only the list is checked.
func TestGeneratedPolicyMutants(t *testing.T) {
	t.Parallel()
	mutants, refused := generateMutants(t)
	listed := readSurvivors(t)
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		require.True(t, slices.ContainsFunc(mutants, func(g *generated) bool { return g.seed+"\t"+g.edit == name }),
			"%s lists %q, which is no mutant any more; remove it", survivorsFile, name)
	}
	if !*playGenerated {
		return
	}
	began := time.Now()
	playGeneration(t, mutants)
	likelies := map[string]int{}
	for _, g := range mutants {
		likelies[g.seed] += len(g.rules)
	}
	left := survivors(mutants)
	for _, g := range left {
		g.rules = slices.DeleteFunc(rulesOf(g.seed), func(id string) bool { return slices.Contains(g.rules, id) })
	}
	playGeneration(t, left)
	for _, g := range survivors(left) {
		if g.rules = nil; strings.HasPrefix(g.edit, "plans.premium") {
			g.rules = []string{"B11"}
		}
	}
	playGeneration(t, slices.DeleteFunc(survivors(left), func(g *generated) bool { return len(g.rules) == 0 }))
	left = survivors(mutants)
	out := t.Output()
	for _, g := range left {
		fmt.Fprintf(out, "survives  %s  %s  %s\n", g.seed, g.edit, listed[g.seed+"\t"+g.edit])
	}
	fmt.Fprintf(out, "%d mutants of the policies' syntax trees: %d refused at load, %d caught, %d survive; %d plays at first, %s\n",
		len(mutants)+refused, refused, len(mutants)-len(left), len(left),
		likelies["visual-foundry"]+likelies["ai-background-studio"]+likelies["3d-studio"], time.Since(began).Round(time.Second))
	for _, g := range mutants {
		_, known := listed[g.seed+"\t"+g.edit]
		switch {
		case g.caught == "" && !known:
			t.Errorf("%s: %s survives; extend the play of its rule, or list it in %s with the reason", g.seed, g.edit, survivorsFile)
		case g.caught != "" && known:
			t.Errorf("%s: %s is caught by %s; remove it from %s: %s", g.seed, g.edit, g.caught, survivorsFile, g.why)
		}
	}
}

// readSurvivors are the reasons, by product and edit.
func readSurvivors(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(survivorsFile)
	require.NoError(t, err)
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, "\t")
		require.Len(t, cells, 3, "%s: %q: product, edit and reason, with a tab between", survivorsFile, line)
		require.NotEmpty(t, cells[2], "%s: no reason for %q", survivorsFile, cells[1])
		out[cells[0]+"\t"+cells[1]] = cells[2]
	}
	return out
}
