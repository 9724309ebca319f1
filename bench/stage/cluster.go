package stage

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"creditgate/bench/cast"
	"creditgate/bench/result"
	"creditgate/meter"
	"creditgate/meter/redisd"
)

func (s *Stage) startCluster(ctx context.Context, o redisd.Options) error {
	cluster, err := redisd.StartCluster(ctx, s.Masters, o)
	if err != nil {
		return err
	}
	s.closers, s.redisURL = append(s.closers, cluster.Stop), cluster.URL()
	for _, server := range cluster.Masters() {
		s.connect(server)
	}
	s.homes, err = s.findHomes(ctx)
	return err
}

// findHomes asks the Cluster on which master each partition lies, and counts the accounts there.
func (s *Stage) findHomes(ctx context.Context) (homes []result.Master, err error) {
	client, err := meter.NewRedis(s.redisURL)
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // only read
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return nil, fmt.Errorf("%s is taken for no Cluster, but for a %T", s.redisURL, client)
	}
	accounts := make([]int, s.Partitions)
	for i := range s.Accounts {
		accounts[s.layout.PartitionOf(cast.Account(i))]++
	}
	homes = make([]result.Master, len(s.clients))
	for p, n := range accounts {
		home, err := cluster.MasterForKey(ctx, s.layout.Keys(uint16(p)).Meta())
		if err != nil {
			return nil, fmt.Errorf("where partition %d lies: %w", p, err)
		}
		i := slices.IndexFunc(s.clients, func(c *redis.Client) bool { return c.Options().Addr == home.Options().Addr })
		if i < 0 {
			return nil, fmt.Errorf("partition %d lies on %s, which is none of the masters", p, home.Options().Addr)
		}
		homes[i].Partitions++
		homes[i].Share += float64(n) / float64(s.Accounts)
	}
	return homes, nil
}
