package redisd_test

import (
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"creditgate/meter/redisd"
)

func TestClusterSpreadsItsKeys(t *testing.T) {
	t.Parallel()
	for _, masters := range []int{1, 3} {
		t.Run(strconv.Itoa(masters), func(t *testing.T) {
			t.Parallel()
			c := redisd.TestCluster(t, masters, "--maxmemory", "64mb")
			require.Len(t, c.Masters(), masters)
			o := &redis.ClusterOptions{MaxRedirects: -1} // only the slot's owner may answer
			for _, s := range c.Masters() {
				o.Addrs = append(o.Addrs, s.Addr())
			}
			cluster := redis.NewClusterClient(o)
			t.Cleanup(func() { require.NoError(t, cluster.Close()) })
			const keys = 100
			for i := range keys {
				require.NoError(t, cluster.Set(t.Context(), strconv.Itoa(i), i, 0).Err())
			}
			sum := int64(0)
			for _, s := range c.Masters() {
				n, err := client(t, s).DBSize(t.Context()).Result()
				require.NoError(t, err)
				require.InDelta(t, keys/masters, n, 15)
				sum += n
				limit, err := client(t, s).ConfigGet(t.Context(), "maxmemory").Result()
				require.NoError(t, err)
				require.Equal(t, "67108864", limit["maxmemory"])
			}
			require.EqualValues(t, keys, sum)
			require.NoError(t, c.Stop())
			require.Error(t, cluster.Ping(t.Context()).Err())
		})
	}
}

// A lone master is named twice: of one address a client could not tell that it is a cluster's.
func TestClusterURL(t *testing.T) {
	t.Parallel()
	c := redisd.TestCluster(t, 1)
	addr := c.Masters()[0].Addr()
	require.Equal(t, "redis://"+addr+","+addr, c.URL())
}

func TestClusterThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, masters := range []int{0, 17} {
		_, err := redisd.StartCluster(t.Context(), masters, redisd.Options{Dir: t.TempDir()})
		require.ErrorContains(t, err, "it has from 1 to 16")
	}
	_, err := redisd.StartCluster(t.Context(), 1, redisd.Options{})
	require.ErrorContains(t, err, "Options.Dir is empty")
	_, err = redisd.StartCluster(t.Context(), 2, redisd.Options{Dir: t.TempDir(), Args: []string{"--maxmemory", "plenty"}})
	require.ErrorContains(t, err, `'maxmemory "plenty"'`)
}
