package redisd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	clusterMastersMax = 16               // processes on one machine
	clusterJoinMax    = 30 * time.Second // a node takes nothing in its first two seconds; gossip takes about one more
	clusterPoll       = 20 * time.Millisecond
	clusterSlots      = 16384
)

// Cluster is a Redis Cluster of masters without replicas. Each has an equal range of the slots.
type Cluster struct{ masters []*Server }

// StartCluster starts the masters, each in a directory of its own below o.Dir, and returns when every one of them
// knows all others and serves. The options are each master's, but for the port, which is always a free one. Data of
// another cluster is not taken over: the directory has to be empty.
func StartCluster(ctx context.Context, masters int, o Options) (_ *Cluster, err error) {
	if masters < 1 || masters > clusterMastersMax {
		return nil, fmt.Errorf("redisd: a cluster of %d masters: it has from 1 to %d", masters, clusterMastersMax)
	}
	if o.Dir == "" {
		return nil, errNoDir
	}
	c := &Cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Kill())
		}
	}()
	for i := range masters {
		one := o
		one.Dir, one.Port = filepath.Join(o.Dir, "master-"+strconv.Itoa(i+1)), 0
		server, err := startNode(ctx, one)
		if err != nil {
			return nil, err
		}
		c.masters = append(c.masters, server)
	}
	return c, c.join(ctx)
}

// startNode starts one that speaks to its like on a second port. That port is by default 10,000 above the first, where
// outgoing connections have theirs.
func startNode(ctx context.Context, o Options) (server *Server, err error) {
	for range startAttempts {
		bus, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		one := o
		one.Args = append(slices.Clone(o.Args), "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus),
			"--cluster-announce-ip", "127.0.0.1") // a lone master would not learn it from anybody
		if server, err = Start(ctx, one); !errors.Is(err, errPortTaken) {
			return server, err
		}
	}
	return nil, fmt.Errorf("redisd: no free pair of ports in %d attempts: %w", startAttempts, errPortTaken)
}

// join gives each master its slots, makes them meet, and waits until all agree.
func (c *Cluster) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterJoinMax)
	defer cancel()
	clients := make([]*redis.Client, len(c.masters))
	for i, s := range c.masters {
		clients[i] = redis.NewClient(&redis.Options{Addr: s.Addr(), DisableIdentity: true})
		defer clients[i].Close() //nolint:errcheck // a few, until all have joined
	}
	first, n := c.masters[0], len(c.masters)
	host, port, err := net.SplitHostPort(first.Addr())
	if err != nil {
		return err
	}
	bus, err := clients[0].ConfigGet(ctx, "cluster-port").Result()
	if err != nil {
		return fmt.Errorf("redisd: cluster port of %s: %w", first.Addr(), err)
	}
	for i, client := range clients {
		// Epochs that differ from the start: equal ones are sorted out by gossip, and slots move meanwhile.
		err := client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err()
		if err == nil {
			err = client.ClusterAddSlotsRange(ctx, i*clusterSlots/n, (i+1)*clusterSlots/n-1).Err()
		}
		if err == nil && i > 0 {
			err = client.Do(ctx, "CLUSTER", "MEET", host, port, bus["cluster-port"]).Err()
		}
		if err != nil {
			return fmt.Errorf("redisd: join %s to the cluster: %w", c.masters[i].Addr(), err)
		}
	}
	for i, client := range clients {
		if err := c.joined(ctx, client); err != nil {
			return fmt.Errorf("redisd: %s did not join the cluster: %w", c.masters[i].Addr(), err)
		}
	}
	return nil
}

// joined waits until a master knows all others with their slots.
func (c *Cluster) joined(ctx context.Context, client *redis.Client) error {
	wanted := []string{
		"cluster_state:ok", fmt.Sprintf("cluster_slots_ok:%d", clusterSlots), fmt.Sprintf("cluster_size:%d", len(c.masters)),
		fmt.Sprintf("cluster_known_nodes:%d", len(c.masters)),
	}
	for {
		info, err := client.ClusterInfo(ctx).Result()
		if err != nil {
			return err
		}
		said := strings.Fields(info)
		missing := slices.IndexFunc(wanted, func(w string) bool { return !slices.Contains(said, w) })
		if missing < 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still not %s: %w", wanted[missing], context.Cause(ctx))
		case <-time.After(clusterPoll):
		}
	}
}

// Masters are in the order of their slots.
func (c *Cluster) Masters() []*Server { return c.masters }

// URL names all masters in the form of CREDITGATE_REDIS_URL. A lone one is named twice: of one address a client cannot
// tell that it is a cluster's.
func (c *Cluster) URL() string {
	var addrs []string
	for _, s := range c.masters {
		addrs = append(addrs, s.Addr())
	}
	if len(addrs) == 1 {
		addrs = append(addrs, addrs[0])
	}
	return "redis://" + strings.Join(addrs, ",")
}

// Stop ends all masters in order.
func (c *Cluster) Stop() error { return c.each((*Server).Stop) }

// Kill ends all masters at once.
func (c *Cluster) Kill() error { return c.each((*Server).Kill) }

func (c *Cluster) each(end func(*Server) error) error {
	var errs []error
	for _, s := range c.masters {
		errs = append(errs, end(s))
	}
	return errors.Join(errs...)
}
