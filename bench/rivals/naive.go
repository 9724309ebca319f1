package rivals

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"creditgate/bench/cast"
)

//go:embed reserve.lua
var reserveScript string

//go:embed settle.lua
var settleScript string

// redisConnsMax lets every client's request have a connection. Fewer would queue in go-redis, more are never asked for.
const redisConnsMax = 4 << 10

// naive meters with two plain EVALSHA per request, each on a connection of the pool.
type naive struct {
	client      *redis.Client
	reserving   *redis.Script
	settling    *redis.Script
	incarnation string // tells the holds of this process from those of another
	holds       atomic.Uint64
}

func newNaive(ctx context.Context, o *options) (*naive, error) {
	client, err := dialRedis(o.redis)
	if err != nil {
		return nil, err
	}
	n := &naive{
		client: client, reserving: redis.NewScript(reserveScript), settling: redis.NewScript(settleScript),
		incarnation: strconv.FormatInt(time.Now().UnixNano(), 36),
	}
	if _, err := prepareRedis(ctx, client, o); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func dialRedis(url string) (*redis.Client, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("-redis: %w", err)
	}
	o.PoolSize = redisConnsMax
	o.MaxRetries = -1 // a reserve whose answer was lost may have drawn
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClient(o), nil
}

// Script.Run sends EVALSHA, and EVAL only after Redis has lost its scripts.
func (n *naive) reserve(ctx context.Context, account string, amount int64) (string, error) {
	hold := n.incarnation + "-" + strconv.FormatUint(n.holds.Add(1), 36)
	keys := []string{orderKey(account), grantsKey(account), holdKey(account, hold)}
	drawn, err := n.reserving.Run(ctx, n.client, keys, time.Now().UnixMilli(), amount).Int()
	if err != nil {
		return "", err
	}
	if drawn == 0 {
		return "", errInsufficient
	}
	return hold, nil
}

func (n *naive) settle(ctx context.Context, account, hold string, charged int64) error {
	charge := 0
	if charged > 0 {
		charge = 1
	}
	settled, err := n.settling.Run(ctx, n.client, []string{grantsKey(account), holdKey(account, hold)}, charge).Int()
	if err == nil && settled == 0 {
		err = errors.New("hold " + hold + " is not there: it was settled before")
	}
	return err
}

func (n *naive) close() { _ = n.client.Close() }

// The keys of an account. nginx.lua spells them too.
func orderKey(account string) string      { return "rival:{" + account + "}:order" }
func grantsKey(account string) string     { return "rival:{" + account + "}:grants" }
func holdKey(account, hold string) string { return "rival:{" + account + "}:hold:" + hold }

// seedBatch is how many accounts go to Redis in one round trip.
const seedBatch = 1000

// scriptSums are what EVALSHA calls the scripts by.
type scriptSums struct{ reserve, settle string }

// prepareRedis loads the scripts, and gives every account its grants anew.
func prepareRedis(ctx context.Context, client *redis.Client, o *options) (sums scriptSums, err error) {
	if sums.reserve, err = client.ScriptLoad(ctx, reserveScript).Result(); err != nil {
		return sums, fmt.Errorf("load reserve.lua: %w", err)
	}
	if sums.settle, err = client.ScriptLoad(ctx, settleScript).Result(); err != nil {
		return sums, fmt.Errorf("load settle.lua: %w", err)
	}
	grants := o.lots(time.Now())
	for first := 0; first < o.accounts; first += seedBatch {
		pipe := client.Pipeline()
		for i := first; i < min(first+seedBatch, o.accounts); i++ {
			seedAccount(ctx, pipe, cast.Account(i), grants)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return sums, fmt.Errorf("seed accounts %d and on: %w", first, err)
		}
	}
	return sums, nil
}

func seedAccount(ctx context.Context, pipe redis.Pipeliner, account string, grants []lot) {
	order, left := orderKey(account), grantsKey(account)
	pipe.Del(ctx, order, left)
	members := make([]redis.Z, len(grants))
	fields := make([]any, 0, 2*len(grants))
	for i, g := range grants {
		id := strconv.Itoa(g.id)
		members[i] = redis.Z{Score: float64(g.expires.UnixMilli()), Member: id}
		fields = append(fields, id, g.amount)
	}
	pipe.ZAdd(ctx, order, members...)
	pipe.HSet(ctx, left, fields...)
}
