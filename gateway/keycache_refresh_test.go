package gateway

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"creditgate/meter/policy"
)

// Entries in use are looked up ahead of expiry, those that come within refreshGather at one moment: storage answers them
// in one query. Nobody waits for it, and each is looked up once.
func TestEntriesInUseAreLookedUpTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := newMetrics(prometheus.NewRegistry(), policy.NewCatalog(nil))
		require.NoError(t, err)
		c := newKeyCache(10*time.Second, m)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.run(ctx)
		var mu sync.Mutex
		asked := map[time.Duration]int{} // since the start
		start := time.Now()
		find := func(_ context.Context, k cacheKey) (Identity, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[time.Since(start)]++
			return Identity{Account: k.account}, nil
		}
		use := func(n int) {
			for i := range n {
				who, err := c.get(ctx, time.Now(), cacheKey{account: "account-" + strconv.Itoa(i)}, find)
				require.NoError(t, err)
				require.Equal(t, "account-"+strconv.Itoa(i), who.Account)
			}
		}
		use(100)
		<-time.After(6 * time.Second)
		use(50)
		<-time.After(refreshGather / 2)
		use(100)
		<-time.After(4 * time.Second) // what was asked then is not half a TTL old
		use(100)
		<-time.After(time.Second)
		require.Equal(t, map[time.Duration]int{0: 100, 6*time.Second + refreshGather: 100}, asked)
	})
}
