package meter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"creditgate/lua"
)

// poolMax bounds the connections: one for each partition whose ledger is waited on, and some for flights and sweeps.
// They are made when needed; a busy gateway with four partitions has about eight.
const poolMax = PartitionsMax + 32

// NewRedis connects to redis://user:password@host:port/db, the same as rediss:// with TLS, a socket as
// unix://user:password@/path?db=0, or a Cluster as redis://host:port,host:port,…. The client retries nothing by itself:
// a script that may have run is sent again only by the engine, which knows that it is idempotent. Timeouts and the
// pool are the engine's too, so the URL takes no option but db.
func NewRedis(rawURL string) (redis.UniversalClient, error) {
	first, rest, several := strings.Cut(rawURL, ",")
	base, err := parseRedisURL(first)
	if err != nil {
		return nil, err
	}
	addrs := []string{base.Addr}
	if several {
		if base.Network == "unix" {
			return nil, errors.New("meter: Redis URL: a unix socket is one server; nothing may follow it after a comma")
		}
		for addr := range strings.SplitSeq(rest, ",") {
			host, port, err := net.SplitHostPort(addr)
			if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || host == "" {
				return nil, fmt.Errorf("meter: Redis URL: after the first comma write host:port,host:port; %q is not", addr)
			}
			addrs = append(addrs, addr)
		}
	}
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: addrs, DB: base.DB, Username: base.Username, Password: base.Password, TLSConfig: base.TLSConfig,
		Protocol:                 2,
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		DialTimeout:              attemptTimeout,
		DialerRetries:            1,
		ReadTimeout:              attemptTimeout,
		WriteTimeout:             attemptTimeout,
		PoolSize:                 poolMax,
		PoolTimeout:              attemptTimeout,
		PipelinePoolSize:         -1,
		ConnMaxIdleTime:          5 * time.Minute,
		DisableIdentity:          true, // CLIENT SETINFO is 7.2+
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}), nil
}

// parseRedisURL reads one URL. Its errors do not show the password: a URL that can be parsed is shown without it, and
// of another nothing is shown, since the password may be what is wrong with it.
func parseRedisURL(raw string) (*redis.Options, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("meter: Redis URL: not a URL; write redis://user:password@host:port/0, and in the " +
			"password %2F for a slash, %2C for a comma, %40 for an at sign")
	}
	for option := range u.Query() {
		if option != "db" {
			return nil, fmt.Errorf("meter: Redis URL %q: the option %s is not taken; timeouts, retries, pool and TLS are fixed",
				u.Redacted(), option)
		}
	}
	o, err := redis.ParseURL(raw)
	if err != nil {
		return nil, fmt.Errorf("meter: Redis URL %q: %w; write redis://host:port/0", u.Redacted(), err)
	}
	return o, nil
}

func (e *Engine) client() redis.UniversalClient { return *e.redis.Load() }

// reconnect drops all connections of a client that gave a mispaired reply. Another flight may have done it before.
func (e *Engine) reconnect(bad redis.UniversalClient, why error) {
	e.redisMu.Lock()
	defer e.redisMu.Unlock()
	if e.client() != bad {
		return
	}
	e.log.Error().Err(why).Msg("closing all connections to Redis")
	fresh, err := e.newClient()
	if err != nil {
		e.log.Error().Err(err).Msg("could not make a new client")
		return
	}
	e.redis.Store(&fresh)
	_ = bad.Close() // nothing more is read from it
}

// isUnloaded reports whether a Redis answered that it does not have the library: it is new, or lost everything.
func isUnloaded(err error) bool { return redis.HasErrorPrefix(err, "Function not found") }

// isFull reports whether Redis refused a command because its memory is at maxmemory.
func isFull(err error) bool { return redis.HasErrorPrefix(err, "OOM") }

// function calls a function of the library that runs when Redis is full too.
func (e *Engine) function(ctx context.Context, name string, keys []string, args ...any) *redis.Cmd {
	client := e.client()
	cmd := client.FCall(ctx, name, keys, args...)
	if !isUnloaded(cmd.Err()) {
		return cmd
	}
	err := loadLibrary(ctx, client, e.library)
	switch {
	case isFull(err):
		return client.Eval(ctx, e.library.Script, keys, append(slices.Clip(args), name)...)
	case err != nil:
		cmd.SetErr(err)
		return cmd
	}
	return client.FCall(ctx, name, keys, args...)
}

// loadLibrary gives the library to every master that does not have it. Its name ends with a digest of its code, so
// one that is there is the same.
func loadLibrary(ctx context.Context, client redis.UniversalClient, l lua.Library) error {
	load := func(ctx context.Context, c redis.Cmdable) error {
		err := c.FunctionLoad(ctx, l.Source).Err()
		if err != nil && !strings.Contains(err.Error(), "already exists") {
			return fmt.Errorf("meter: load the function library: %w", err)
		}
		return nil
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return load(ctx, c) })
	}
	return load(ctx, client)
}

// ErrRedisConfig says that Redis is set up so that it could lose credit.
var ErrRedisConfig = errors.New("unsafe Redis settings")

// CheckRedis refuses a Redis that evicts keys or does not persist them. INFO is used because CONFIG is often barred.
func CheckRedis(ctx context.Context, client redis.UniversalClient) error {
	info, err := client.Info(ctx, "memory", "persistence").Result()
	if err != nil {
		return fmt.Errorf("meter: %w: %w", ErrUnavailable, err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(info) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[k] = v
		}
	}
	if p := fields["maxmemory_policy"]; p != "noeviction" {
		return fmt.Errorf("meter: %w: maxmemory-policy is %q; set it to noeviction", ErrRedisConfig, p)
	}
	if fields["aof_enabled"] != "1" {
		return fmt.Errorf("meter: %w: the append-only file is off; set appendonly yes", ErrRedisConfig)
	}
	return nil
}
