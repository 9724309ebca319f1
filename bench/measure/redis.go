package measure

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Redis is the counters of a server, or the sum of several masters'.
type Redis struct {
	CPUMicros float64
	Commands  float64 // those that scripts call are included
	Calls     float64 // EVALSHA and FCALL
	Errors    float64 // replies that were errors
	InBytes   float64
	OutBytes  float64
	Memory    float64 // bytes used, without what connections and the append-only file's buffer hold just now
}

// ReadRedis reads the counters of clients, one for each master.
func ReadRedis(ctx context.Context, clients []*redis.Client) ([]Redis, error) {
	out := make([]Redis, len(clients))
	for i, c := range clients {
		info, err := c.Info(ctx, "everything").Result()
		if err == nil {
			out[i], err = parseInfo(info)
		}
		if err != nil {
			return nil, fmt.Errorf("measure: INFO of %s: %w", c.Options().Addr, err)
		}
	}
	return out, nil
}

// SumRedis adds the counters of several masters.
func SumRedis(masters []Redis) (sum Redis) {
	for _, m := range masters {
		sum = sum.plus(m, 1)
	}
	return sum
}

// Since is what was counted after before.
func (r Redis) Since(before Redis) Redis { return r.plus(before, -1) }

func (r Redis) plus(o Redis, sign float64) Redis {
	return Redis{
		CPUMicros: r.CPUMicros + sign*o.CPUMicros, Commands: r.Commands + sign*o.Commands,
		Calls: r.Calls + sign*o.Calls, Errors: r.Errors + sign*o.Errors,
		InBytes: r.InBytes + sign*o.InBytes, OutBytes: r.OutBytes + sign*o.OutBytes,
		Memory: r.Memory + sign*o.Memory,
	}
}

const microsPerSecond = 1e6

func parseInfo(info string) (Redis, error) {
	var r Redis
	var errs []error
	for line := range strings.Lines(info) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		number := func() float64 {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
			return v
		}
		switch name {
		case "used_cpu_sys", "used_cpu_user":
			r.CPUMicros += number() * microsPerSecond
		case "total_net_input_bytes":
			r.InBytes = number()
		case "total_net_output_bytes":
			r.OutBytes = number()
		case "used_memory":
			r.Memory += number()
		case "mem_clients_normal", "mem_aof_buffer":
			r.Memory -= number()
		default:
			if strings.HasPrefix(name, "errorstat_") {
				text = strings.TrimPrefix(text, "count=")
				r.Errors += number()
			}
			command, stat := strings.CutPrefix(name, "cmdstat_")
			if !stat {
				continue
			}
			_, text, _ = strings.Cut(text, "calls=")
			text, _, _ = strings.Cut(text, ",")
			calls := number()
			r.Commands += calls
			if command == "evalsha" || command == "fcall" {
				r.Calls += calls
			}
		}
	}
	if r.Memory <= 0 {
		errs = append(errs, errors.New("it has no used_memory"))
	}
	return r, errors.Join(errs...)
}
