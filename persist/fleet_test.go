package persist_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/persist"
	"creditgate/persist/persisttest"
)

// Rows of gateways: of those that were seen within a minute, one each, and none of those that were killed and replaced.
func TestFleetKnowsWhoServes(t *testing.T) {
	t.Parallel()
	b, none := setup(t), map[string]string{}
	names := func(f *persist.Fleet) (out []string) {
		all, err := f.Gateways(t.Context())
		require.NoError(t, err)
		for _, g := range all {
			out = append(out, g.Name)
		}
		return out
	}
	renew := func(f *persist.Fleet, s persist.GatewayState) int64 {
		newest, age, err := f.Renew(t.Context(), s)
		require.NoError(t, err)
		require.Positive(t, age)
		return newest
	}
	one, two := persist.NewFleet(b.store, "a:1"), persist.NewFleet(b.store, "b:1")
	require.Zero(t, renew(one, persist.GatewayState{Policies: map[string]string{"studio": "v1"}}))
	require.Zero(t, renew(two, persist.GatewayState{Policies: none}))
	number, err := two.RequestReload(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, number)
	long := strings.Repeat("ä", 4000) + "\x00\xff"
	require.EqualValues(t, 1, renew(one, persist.GatewayState{
		Reload: 1, Policies: map[string]string{"studio": "v2"}, Error: "\x00\xff" + long,
	}))
	all, err := two.Gateways(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, map[string]string{"studio": "v2"}, all[0].Policies)
	require.EqualValues(t, 1, all[0].Reload)
	require.True(t, strings.HasPrefix(all[0].Error, "ää"))
	require.LessOrEqual(t, len(all[0].Error), 4<<10)
	require.Zero(t, all[1].Reload)

	again := persist.NewFleet(b.store, "a:1") // was killed, and listens again
	require.EqualValues(t, 1, renew(again, persist.GatewayState{Policies: none}))
	require.Equal(t, []string{"a:1", "b:1"}, names(two))
	renew(one, persist.GatewayState{Policies: none}) // it lives after all, on a host of the same name
	require.Equal(t, []string{"a:1", "a:1", "b:1"}, names(two))

	persisttest.Tamper(t, b.url, `UPDATE creditgate.gateway SET seen_at = now() - interval '61 s' WHERE name = 'a:1'`)
	require.Equal(t, []string{"b:1"}, names(two))
	renew(persist.NewFleet(b.store, "c:1"), persist.GatewayState{Policies: none})
	require.Equal(t, [][]any{{int64(2)}}, b.query(t, `SELECT count(*) FROM creditgate.gateway`), "those that are gone are forgotten")
	require.NoError(t, two.Leave(t.Context()))
	require.Equal(t, []string{"c:1"}, names(two))
}
