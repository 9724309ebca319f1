package main_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// seedOf is the product that a rule is one of.
func seedOf(id string) string {
	switch id[0] {
	case 'A':
		return "visual-foundry"
	case 'B':
		return "ai-background-studio"
	}
	return "3d-studio"
}

func seedSource(t *testing.T, product string) string {
	t.Helper()
	src, err := policy.Example(product)
	require.NoError(t, err)
	return string(src)
}

func seedRules() []rule { return append(append(rulesA(), rulesB()...), rulesC()...) }

// newPlayer makes the player of a rule under a policy.
func newPlayer(t *testing.T, w *seedWorld, id string, p *policy.Policy) *player {
	t.Helper()
	return &player{world: w, id: strings.ToLower(id), product: p.Name, zone: p.Location}
}

// playAll plays rules side by side; the errors are by rule.
func playAll(w *seedWorld, plays map[string]func() error) map[string]error {
	var mu sync.Mutex
	var all sync.WaitGroup
	out := map[string]error{}
	w.enter(len(plays))
	for id, play := range plays {
		all.Go(func() {
			err := play()
			mu.Lock()
			defer mu.Unlock()
			out[id] = err
		})
	}
	all.Wait()
	return out
}

// Each rule of the three seed products holds under the product's own example policy, through the API of a gateway with
// a test clock that plays the years it takes.
func TestSeedRules(t *testing.T) {
	t.Parallel()
	policies, parsed := map[string]string{}, map[string]*policy.Policy{}
	for _, name := range [...]string{"visual-foundry", "ai-background-studio", "3d-studio"} {
		policies[name] = seedSource(t, name)
		p, err := policy.Parse(name, []byte(policies[name]))
		require.NoError(t, err)
		parsed[name] = p
	}
	w := newSeedWorld(t, policies)
	plays := map[string]func() error{}
	began := time.Now()
	for _, r := range seedRules() {
		p := newPlayer(t, w, r.id, parsed[seedOf(r.id)])
		plays[r.id] = func() error { return p.run(r.play) }
	}
	require.Len(t, plays, 57)
	results := playAll(w, plays)
	if results["C13"] == nil {
		w.enter(1)
		results["C13"] = newPlayer(t, w, "C13-later", parsed["3d-studio"]).run(addedLater)
	}
	t.Logf("%d rules, %d moves of the clock, %s", len(plays), w.jumps, time.Since(began).Round(time.Millisecond))
	for _, r := range seedRules() {
		t.Run(r.id, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, results[r.id], "%s %s", r.id, r.what)
		})
	}
}
