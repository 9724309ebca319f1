package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"creditgate/meter"
	"creditgate/persist"
)

func (a *app) verifyCommand() *cobra.Command {
	return a.configured(&cobra.Command{
		Use:   "verify",
		Short: "Compare Redis with Postgres, and the ledger with itself",
		Long: "Compare Redis with Postgres at equal seq of each account, what accounts hold with the reservations that hold it,\n" +
			"and the ledger with its hash chain and its sums. Traffic may go on meanwhile. The status is 0 when all agree,\n" +
			"1 on any drift, 2 when it could not be checked.",
		Args: cobra.NoArgs,
	}, func(cmd *cobra.Command, c *config, _ []string) error {
		report, restless, err := verifyOnce(cmd.Context(), c)
		if err == nil {
			err = report.Print(a.out)
		}
		if err == nil && report.OK() && len(restless) > 0 {
			err = fmt.Errorf("account %s, and %d more, change too fast to count what they hold; repeat when it is calmer",
				restless[0], len(restless)-1)
		}
		switch {
		case err != nil:
			return &statusError{exitUnchecked, fmt.Errorf("could not check: %w", err)}
		case !report.OK():
			return &statusError{status: exitFailed}
		}
		return nil
	}, "redis_url", "postgres_url", "layout", "partitions")
}

// verifyOnce is verify on connections of its own.
func verifyOnce(ctx context.Context, c *config) (report *persist.Report, restless []string, err error) {
	if err := c.require("redis_url", "postgres_url"); err != nil {
		return nil, nil, err
	}
	store, err := persist.Open(ctx, c.PostgresURL, c.Layout, nil)
	if err != nil {
		return nil, nil, err
	}
	defer store.Close()
	if err := store.CheckSchema(ctx); err != nil {
		return nil, nil, err
	}
	redis, err := meter.NewInspector(c.RedisURL, c.Layout)
	if err != nil {
		return nil, nil, err
	}
	defer redis.Close() //nolint:errcheck // only read
	return verify(ctx, store, redis)
}

// verify checks all that can be checked. An error means that it could not be, which says nothing about drift. restless
// are accounts that changed too fast to count what they hold.
func verify(
	ctx context.Context, store *persist.Store, redis *meter.Inspector,
) (report *persist.Report, restless []string, err error) {
	r := redisVerifier{store: store, redis: redis}
	for p := range redis.Layout().Partitions {
		if err := r.ledger(ctx, p); err != nil {
			return nil, nil, fmt.Errorf("partition %d: %w", p, err)
		}
	}
	if report, err = persist.Verify(ctx, store, r.account); err != nil {
		return nil, nil, err
	}
	if err := r.holds(ctx); err != nil {
		return nil, nil, err
	}
	for _, d := range r.drifts {
		report.Add(d)
	}
	return report, r.restless, nil
}
