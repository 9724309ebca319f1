package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// A larger pack that gives no discount is a warning, on a plan's list and without plans; a discount is none.
func TestWarnings(t *testing.T) {
	t.Parallel()
	for packs, want := range map[string]string{
		"plans: {plus: {packs: [small, large]}}\npacks:\n" +
			"  small: {bucket: a, credits: 50, price: 45.00 EUR}\n  large: {bucket: a, credits: 200, price: 180.00 EUR}\n": "" +
			"p.yaml:3:23: plans.plus.packs: warning: a credit of large costs 0.90 and one of small 0.90: the larger pack gives " +
			"no discount; write purchases: {volume_discount: required} to have that refused",
		"packs:\n  large: {bucket: a, credits: 200, price: 190.00 EUR}\n  small: {bucket: a, credits: 50, price: 45.00 EUR}\n": "" +
			"p.yaml:4:3: packs.large: warning: a credit of large costs 0.95 and one of small 0.90: the larger pack gives " +
			"no discount; write purchases: {volume_discount: required} to have that refused",
		"packs:\n  small: {bucket: a, credits: 50, price: 45.00 EUR}\n  large: {bucket: a, credits: 200, price: 160.00 EUR}\n": "",
	} {
		p, err := policy.Parse("p.yaml", []byte("name: p\nbuckets: [a]\n"+packs+"operations: {x: {match: POST /x, credits: 1}}\n"))
		require.NoError(t, err)
		if want == "" {
			require.Empty(t, p.Warnings)
			continue
		}
		require.Len(t, p.Warnings, 1)
		require.Equal(t, want, p.Warnings[0].String())
	}
}
