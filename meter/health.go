package meter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"creditgate/meter/outage"
)

// clockSkewMax is how far this host's clock may be off Redis'. The scripts refuse more.
const clockSkewMax = time.Minute

// errClosed says that the cause of a failure is a partition that is not open. The opener logs why.
var errClosed = errors.New("partition is closed")

// probe asks Redis whether it takes reservations. Its script may write and does not: Redis refuses such a script when it
// is full, read-only, loading, or cannot save, which is when it refuses a reservation.
const probe = "#!lua\nreturn redis.call('TIME')"

// watch adds what an engine depends on to those whose failures are counted instead of logged.
func (e *Engine) watch(w *outage.Watch, reg prometheus.Registerer) {
	if w == nil {
		w = new(outage.Watch)
	}
	e.outages = w
	e.closed = w.Add(outage.Options{
		Name: "A partition", Means: "requests of its accounts get 503", Is: errClosed, Told: true, Log: e.log,
	})
	e.server = w.Add(outage.Options{
		Name: "Redis", Means: "priced requests get 503", Is: ErrUnavailable, Check: e.check, Log: e.log,
	})
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditgate_redis_up", Help: "1 while Redis answers and takes reservations, else 0; /readyz says why.",
	}, e.server.Value))
}

// RedisState says whether Redis serves, as of the last check.
func (e *Engine) RedisState() outage.State { return e.server.State() }

// check asks each server of Redis. One that comes back may be another one than before: the partitions are asked before
// it counts as back, so that no request is the first to find them fenced.
func (e *Engine) check(ctx context.Context) error {
	client := e.client()
	err := e.probe(ctx, client)
	if cluster, ok := client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return e.probe(ctx, c) })
	}
	if err == nil && e.wasAway {
		err = e.tickAll()
	}
	if e.wasAway = err != nil; err == nil && e.allOpen() {
		e.closed.OK()
	}
	return err
}

func (e *Engine) probe(ctx context.Context, client redis.UniversalClient) error {
	before, offset := e.read()
	at, err := client.Eval(ctx, probe, nil).Int64Slice()
	switch {
	case redis.HasErrorPrefix(err, "OOM"):
		return errors.New("it is full: used_memory is above maxmemory, so it refuses writes; raise maxmemory")
	case err != nil:
		return err
	case len(at) != 2:
		return fmt.Errorf("its TIME is %v", at)
	}
	if skew := time.Unix(at[0], 0).Sub(before.Add(-offset)); skew.Abs() > clockSkewMax+time.Second {
		return fmt.Errorf("its clock is %s off this host's, at most %s; correct the one that is wrong", skew.Round(time.Second),
			clockSkewMax)
	}
	return nil
}

// tickAll sends an operation without effect to every partition that is open here. A refusal shuts the partition, and
// the opener looks at it.
func (e *Engine) tickAll() error {
	for _, p := range e.partitions {
		if !p.ready() {
			continue
		}
		s := &sweep{Engine: e, p: p}
		if err := s.send([]*op{newOp(verbTick, p.number, NewID(e.now()), "")}); err != nil && !errors.Is(err, errClosed) {
			return err
		}
	}
	return nil
}

func (e *Engine) allOpen() bool {
	for _, p := range e.partitions {
		if !p.ready() {
			return false
		}
	}
	return true
}

// unreached lays the error of a plain command to Redis, unless it is laid to something already.
func unreached(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
