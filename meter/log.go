package meter

import (
	"context"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

// LogRedis lets the Redis client write to log; by itself it writes to standard error. The client knows only one
// logger for the whole process, so it is called once, by the program that owns the process.
func LogRedis(log zerolog.Logger) { redis.SetLogger(redisLog{log}) }

type redisLog struct{ log zerolog.Logger }

// Printf implements go-redis' logger. What it says about connections that broke is also in the error that the engine
// gets, and handles; hence debug.
func (l redisLog) Printf(_ context.Context, format string, a ...any) {
	l.log.Debug().Str("from", "go-redis").Msgf(format, a...)
}
