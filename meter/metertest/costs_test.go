package metertest_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"creditgate/meter/metertest"
)

func TestCostsAreHeldAgainstTheRecordedTable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "costs.json")
	cost := func(cell, unit string, x float64) metertest.Cost {
		return metertest.Cost{Cell: cell, Unit: unit, PerRequest: x, Share: 0.02, Plus: 0.5}
	}
	none, err := metertest.ReadCosts(file)
	require.NoError(t, err)
	none.Servers = map[string]string{"instructions": "redis 7"}
	require.NoError(t, none.Record(file, []metertest.Cost{
		cost("one", "commands", 20), cost("one", "instructions", 1000), cost("two", "commands", 0.1254), cost("gone", "commands", 3),
	}))
	table, err := metertest.ReadCosts(file)
	require.NoError(t, err)
	require.Equal(t, none.Servers, table.Servers)
	require.InDelta(t, 0.125, table.Costs[2].PerRequest, 1e-9)

	_, grew, shrank := table.Judge([]metertest.Cost{
		cost("one", "commands", 20.5), cost("one", "instructions", 1020), cost("two", "commands", 0.6), cost("gone", "commands", 2.5),
	})
	require.Empty(t, grew, "all within what may move")
	require.Empty(t, shrank)

	_, grew, shrank = table.Judge([]metertest.Cost{
		cost("one", "commands", 20.6), cost("one", "instructions", 979), cost("two", "commands", 0.1), cost("new", "commands", 1),
	})
	require.Equal(t, []string{
		"one, commands: 20.600, recorded 20.000, may move by 0.500",
		"new, commands: not in the table yet",
		"gone, commands: in the table, and no longer counted",
	}, grew)
	require.Equal(t, []string{"one, instructions: 979.000, recorded 1000, may move by 20.000"}, shrank)

	// A machine that cannot count instructions neither judges nor forgets them.
	_, grew, _ = table.Judge([]metertest.Cost{cost("one", "commands", 20), cost("two", "commands", 0), cost("gone", "commands", 3)})
	require.Empty(t, grew)
	require.NoError(t, table.Record(file, []metertest.Cost{cost("one", "commands", 21)}))
	table, err = metertest.ReadCosts(file)
	require.NoError(t, err)
	require.Equal(t, []metertest.Cost{
		{Cell: "one", Unit: "commands", PerRequest: 21}, {Cell: "one", Unit: "instructions", PerRequest: 1000},
	}, table.Costs)
}
