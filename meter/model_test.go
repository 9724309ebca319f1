package meter_test

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"creditgate/meter/redisd"
)

// TestModel plays random verbs on real Redis and on the model, and compares every reply and the whole state.
func TestModel(t *testing.T) {
	t.Parallel()
	for _, half := range []string{"first half", "second half"} { // one for each core
		t.Run(half, func(t *testing.T) {
			t.Parallel()
			server := redisd.Test(t)
			verbs := 0
			rapid.Check(t, func(rt *rapid.T) {
				p := newPlay(t.Context(), rt, server)
				defer p.close()
				p.fund()
				for range 4 { // each as long as rapid's average of 30; a failing one shrinks to what it needs
					rt.Repeat(p.actions())
				}
				verbs += p.verbs
			})
			t.Logf("%d verbs", verbs)
			if flag.Lookup("rapid.checks").Value.String() == "100" { // the default, as in the ordinary run
				require.GreaterOrEqual(t, verbs, 10_000)
			}
		})
	}
}
