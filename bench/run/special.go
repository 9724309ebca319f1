package main

import (
	"context"
	"fmt"

	"creditgate/bench/load"
	"creditgate/bench/result"
)

// bareRoundTrip is what any script costs at least: EVALSHA of one that does nothing, one at a time on one connection.
func bareRoundTrip(ctx context.Context, b *bench, row *result.Row) error {
	if err := b.drained(ctx); err != nil {
		return err
	}
	client := b.stage.OneConnection()
	defer client.Close() //nolint:errcheck // nothing more is asked
	sha, err := client.ScriptLoad(ctx, "return 1").Result()
	if err != nil {
		return fmt.Errorf("load a script: %w", err)
	}
	length := b.config.length
	r, err := load.Repeat(ctx, length/warmShare, length, func(ctx context.Context) error {
		return client.EvalSha(ctx, sha, nil).Err()
	})
	row.Requests, row.Seconds, row.Latency = r.Requests, r.Seconds, r.Latency
	return err
}

// memoryUsed fills a Redis of its own. It measures no time, so a second round would repeat the first.
func memoryUsed(ctx context.Context, b *bench, row *result.Row) error {
	const grants, partitions = 3, 1
	accounts, holds := pick(b.config, million, 50_000), pick(b.config, 100_000, 20_000)
	m, err := b.hall.Memory(ctx, accounts, grants, partitions, holds)
	row.Accounts, row.Grants, row.Partitions = accounts, grants, partitions
	row.Extra = map[string]float64{
		result.ExtraAccountSize: m.PerAccount, result.ExtraHoldSize: m.PerHold, result.ExtraHolds: float64(holds),
		result.ExtraLoadSeconds: m.LoadSeconds,
	}
	return err
}
