package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter/redisd"
	"creditgate/persist/finance"
	"creditgate/persist/persisttest"
)

const shopPolicy = `
name: shop
buckets: [purchased]
packs:
  ten: {bucket: purchased, credits: 10, price: 9.00 EUR, expires: {after: 1y}}
operations:
  generate: {match: POST /v1/images/generations, credits: 1}
`

// buyers buy on and on, each order once until it is answered, and tell which ones were.
type buyers struct {
	mu       sync.Mutex
	answered map[string]bool // by reference: with a 2xx
	enough   chan struct{}
}

// buy runs clients that buy each until nobody answers, or each has bought most times. enough is closed at so many
// answers.
func (b *buyers) buy(t *testing.T, g *gateway, round string, enough, most int) (wait func()) {
	t.Helper()
	b.enough = make(chan struct{})
	answers := 0
	var work sync.WaitGroup
	for c := range 4 {
		work.Go(func() {
			for i := range most {
				ref := fmt.Sprintf("%s-%d-%d", round, c, i)
				b.mu.Lock()
				b.answered[ref] = false
				b.mu.Unlock()
				status, answer := g.ask(t, "POST", "/v1/accounts/ada/purchases", fmt.Sprintf(`{"pack":"ten","external_ref":%q}`, ref))
				if status == 0 {
					return
				}
				b.mu.Lock()
				if status < 300 {
					b.answered[ref] = true
					if answers++; answers == enough {
						close(b.enough)
					}
				} else if status != http.StatusServiceUnavailable {
					t.Errorf("%s: %d %s", ref, status, answer)
				}
				b.mu.Unlock()
			}
		})
	}
	return work.Wait
}

// A purchase that was answered with a 2xx is granted once, whatever is killed at whatever moment; one that was not
// answered is granted once when it is repeated.
func TestPurchaseSurvivesKills(t *testing.T) {
	t.Parallel()
	kills := map[string]func(t *testing.T, w *world, g *gateway){
		"gateway": func(_ *testing.T, _ *world, g *gateway) { g.kill() },
		"redis":   func(t *testing.T, w *world, _ *gateway) { t.Helper(); require.NoError(t, w.redis.Kill()) },
		"both": func(t *testing.T, w *world, g *gateway) {
			t.Helper()
			require.NoError(t, w.redis.Kill())
			g.kill()
		},
		"both, and what Redis had": func(t *testing.T, w *world, g *gateway) {
			t.Helper()
			require.NoError(t, w.redis.Kill())
			g.kill()
			w.redis = redisd.Test(t) // an empty one
		},
	}
	for name, kill := range kills {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			require.NoError(t, os.WriteFile(w.policy, []byte(shopPolicy), 0o600))
			b := &buyers{answered: map[string]bool{}}
			for round := range 3 {
				g := w.serve(t)
				g.must(t, "PUT", "/v1/accounts/ada", `{}`)
				wait := b.buy(t, g, strconv.Itoa(round), 1+2*round, 3)
				<-b.enough
				kill(t, w, g)
				wait()
				g.kill()
				if name == "redis" || name == "both" {
					require.NoError(t, w.redis.Restart(t.Context()))
				}
				b.check(t, w, w.serve(t))
			}
		})
	}
}

// check repeats every order, and compares what was granted with what was bought. The heir is killed too.
func (b *buyers) check(t *testing.T, w *world, heir *gateway) {
	t.Helper()
	for ref, answered := range b.answered {
		var state struct {
			State string `json:"state"`
		}
		if answered {
			require.NoError(t, json.Unmarshal([]byte(heir.must(t, "GET", "/v1/purchases/"+ref, "")), &state), "it was answered")
		}
		heir.must(t, "POST", "/v1/accounts/ada/purchases", fmt.Sprintf(`{"pack":"ten","external_ref":%q}`, ref))
		require.NoError(t, json.Unmarshal([]byte(heir.must(t, "GET", "/v1/purchases/"+ref, "")), &state))
		require.Equal(t, "granted", state.State, ref)
		b.answered[ref] = true
	}
	require.Equal(t, balance{Available: float64(10 * len(b.answered))}, heir.balance(t, "ada"))
	w.verified(t)
	entries, err := finance.Entries(t.Context(), persisttest.AsFinance(t, w.database), "ada")
	require.NoError(t, err)
	require.Len(t, entries, len(b.answered), "one grant each, and nothing else")
	for _, e := range entries {
		require.Equal(t, "grant", e.Kind)
	}
	heir.kill()
}
