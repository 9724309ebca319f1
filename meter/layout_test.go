package meter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The spread may never change within a layout: these accounts are where they are in every running deployment.
func TestPartitionOfIsFixed(t *testing.T) {
	t.Parallel()
	l := Layout{Number: 1, Partitions: 4}
	for account, want := range map[string]uint16{"demo-plus": 1, "demo-empty": 2, "a": 0, "b": 1, "c": 2} {
		require.Equal(t, want, l.PartitionOf(account), account)
	}
}

func TestPartitionsFillEvenly(t *testing.T) {
	t.Parallel()
	const accounts = 64_000
	for _, partitions := range []uint16{4, 12, PartitionsMax} {
		l, count := Layout{Number: 1, Partitions: partitions}, make([]int, partitions)
		for i := range accounts {
			count[l.PartitionOf(fmt.Sprintf("customer-%d", i))]++
		}
		mean := accounts / int(partitions)
		for p, n := range count {
			require.InDelta(t, mean, n, float64(mean)/4, "partition %d of %d", p, partitions)
		}
	}
}

func TestKeysShareOneTag(t *testing.T) {
	t.Parallel()
	l := Layout{Number: 2, Partitions: 256}
	k := l.Keys(3)
	require.Equal(t, []string{
		"{cg2:03}:meta", "{cg2:03}:ledger", "{cg2:03}:open", "{cg2:03}:slots", "{cg2:03}:a:studio-7",
	}, []string{k.Meta(), k.Ledger(), k.Open(), k.Slots(), k.Account("studio-7")})
	require.Equal(t, "{cg2:255}:meta", l.Keys(255).Meta())
	require.Equal(t, "{cg2:03}:done:1", k.Done(5*60*1000))
	require.Equal(t, k.Done(5*60*1000), k.Done(10*60*1000-1), "a slot is five minutes wide")
	require.NotEqual(t, k.Done(5*60*1000), k.Done(5*60*1000-1))
	require.Equal(t, "{cg2:03}:keys:20089", k.KeyDay(1_735_700_000_000))
	require.NotEqual(t, k.KeyDay(0), k.KeyDay(24*60*60*1000))
}

func TestReservationIDFindsItsHome(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := Layout{Number: 7, Partitions: rapid.Uint16Range(1, PartitionsMax).Draw(t, "partitions")}
		account := rapid.StringMatching(`[A-Za-z0-9._-]{1,64}`).Draw(t, "account")
		require.True(t, ValidName(account))
		id := l.NewReservationID(anyID().Draw(t, "id"), account)
		require.Equal(t, l.PartitionOf(account), id.Partition)
		require.Less(t, id.Partition, l.Partitions)
		require.True(t, strings.HasPrefix(l.Keys(id.Partition).Account(account), "{cg7:"))
	})
}
