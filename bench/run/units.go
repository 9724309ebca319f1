package main

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"creditgate/bench/measure"
	"creditgate/bench/result"
)

// How often a unit is repeated: long enough for Redis' own clock of its CPU, and far below the five seconds after which
// Redis calls a script slow.
const (
	unitPipeline = 64
	unitTimes    = 1600 * unitPipeline
)

// unitKeys are the keys that units use, which go when they are measured.
const (
	unitText = "bench:unit:text"
	unitHash = "bench:unit:hash"
)

// unitScripts are what a script repeats, by the name of the unit.
func unitScripts() map[string]string {
	return map[string]string{
		result.UnitTime: `redis.call('TIME')`,
		result.UnitGet:  `redis.call('GET', KEYS[1])`, result.UnitSet: `redis.call('SET', KEYS[1], 'value')`,
		result.UnitHGet: `redis.call('HGET', KEYS[2], 'a')`, result.UnitHMGet: `redis.call('HMGET', KEYS[2], 'a', 'b', 'c')`,
		result.UnitHSet:   `redis.call('HSET', KEYS[2], 'a', '1', 'b', '2')`,
		result.UnitUnpack: `struct.unpack('<i8i8i8i8i8i8i8i8i8i8i8i8', ARGV[1])`,
		result.UnitPack:   `struct.pack('<i8i8i8i8i8i8i8i8i8i8i8i8', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, i)`,
	}
}

// unitCost measures what one thing costs Redis, in CPU: machines differ in it by more than the bounds allow for, and not
// by the same factor for each thing.
func unitCost(ctx context.Context, b *bench, row *result.Row) error {
	if err := b.drained(ctx); err != nil {
		return err
	}
	client := b.stage.OneConnection()
	defer client.Close() //nolint:errcheck // nothing more is asked
	defer client.Del(ctx, unitText, unitHash)
	if err := client.Set(ctx, unitText, "value", 0).Err(); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	if err := client.HSet(ctx, unitHash, "a", 1, "b", 2, "c", 3).Err(); err != nil {
		return fmt.Errorf("make a hash: %w", err)
	}
	repeat := repeatCalls
	if body, ok := unitScripts()[row.Target]; ok {
		repeat = func(ctx context.Context, c *redis.Client) error { return repeatInScript(ctx, c, body) }
	}
	before, err := measure.ReadRedis(ctx, []*redis.Client{client})
	if err != nil {
		return err
	}
	if err := repeat(ctx, client); err != nil {
		return fmt.Errorf("%s: %w", row.Target, err)
	}
	after, err := measure.ReadRedis(ctx, []*redis.Client{client})
	if err != nil {
		return err
	}
	row.Extra = map[string]float64{result.ExtraUnit: 1000 * after[0].Since(before[0]).CPUMicros / unitTimes}
	return nil
}

func repeatInScript(ctx context.Context, c *redis.Client, body string) error {
	script := fmt.Sprintf("for i = 1, %d do %s end return 1", unitTimes, body)
	return c.Eval(ctx, script, []string{unitText, unitHash}, make([]byte, 12*8)).Err()
}

// repeatCalls is of a script that does nothing, many on their way at once: what any call costs beside what it does.
func repeatCalls(ctx context.Context, c *redis.Client) error {
	for range unitTimes / unitPipeline {
		pipe := c.Pipeline()
		for range unitPipeline {
			pipe.Eval(ctx, "return 1", nil)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}
