package stage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Bounds of waiting for a server to have done with what filling it began.
const (
	restMax  = 5 * time.Minute
	restPoll = 50 * time.Millisecond
)

// rest returns when no Redis of the stage rewrites its append-only file any more, and lets none begin. Filling one with
// a million accounts starts that, again and again, and while it lasts each first write to a page of memory copies the
// page: a request then costs up to twice the CPU, which says something about rewriting and nothing about accounts.
func (s *Stage) rest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restMax)
	defer cancel()
	for _, c := range s.clients {
		if err := c.ConfigSet(ctx, "auto-aof-rewrite-percentage", "0").Err(); err != nil {
			return fmt.Errorf("CONFIG SET at %s: %w", c.Options().Addr, err)
		}
		for {
			busy, err := rewriting(ctx, c)
			if err != nil {
				return err
			}
			if !busy {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for %s to have rewritten its file: %w", c.Options().Addr, ctx.Err())
			case <-time.After(restPoll):
			}
		}
	}
	return nil
}

func rewriting(ctx context.Context, c *redis.Client) (bool, error) {
	info, err := c.Info(ctx, "persistence").Result()
	if err != nil {
		return false, fmt.Errorf("INFO persistence of %s: %w", c.Options().Addr, err)
	}
	for _, flag := range []string{"aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress"} {
		if strings.Contains(info, flag+":1") {
			return true, nil
		}
	}
	return false, nil
}
