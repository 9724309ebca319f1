//go:build !race

package policy

// Not under the race detector: sync.Pool then drops what it is given at random.

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A price in the usual forms costs a request no allocation, however often and of whatever size.
func TestAllocations(t *testing.T) { //nolint:paralleltest // others would add to its allocations
	o := operation(t, "require: [{that: given(body.prompt) or given(form.prompt) or given(parts.prompt), else: Add a prompt.}]",
		"units: body.n ?? 1", "max: 10", "credits: 1", "delivered: len(response.data)")
	r := jsonRequest(`{"n":2,"prompt":"a red fox"}`)
	lines := [][2][]byte{{[]byte("Content-Type"), []byte("application/json")}}
	r.Header = func(yield func(k, v []byte) bool) {
		for _, l := range lines {
			if !yield(l[0], l[1]) {
				return
			}
		}
	}
	answer := []byte(`{"data":[{"url":"x"},{"url":"y"}]}`)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		v, err := o.Read(r)
		if err != nil {
			t.Fatal(err)
		}
		q, err := o.Quote(v)
		if err != nil {
			t.Fatal(err)
		}
		if units, ok := o.Delivered(q, 200, answer); !ok || units != 2 {
			t.Fatal(units, ok)
		}
		v.Release()
	}))
}
