package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"creditgate/gateway"
	"creditgate/meter"
)

// config is everything that can be set. A command reads what it needs of it.
type config struct {
	Listen          string
	AdminListen     string
	RedisURL        string
	ReplayRedisURL  string
	PostgresURL     string
	MigrateURL      string
	Policy          string
	JournalDir      string
	Layout          meter.Layout
	TrimLag         time.Duration
	ShutdownTimeout time.Duration
	VerifyEvery     time.Duration
	WebhookNetworks []string
	TestClock       bool
	LogLevel        string
	LogFormat       string
	Gateway         gateway.Settings
}

// defaultConfig holds the defaults; those of the gateway are its own.
func defaultConfig() *config {
	return &config{
		Listen:          ":8080",
		AdminListen:     "127.0.0.1:8081",
		JournalDir:      "/var/lib/creditgate/journal",
		Layout:          meter.Layout{Number: 1, Partitions: 1},
		TrimLag:         15 * time.Minute,
		ShutdownTimeout: 75 * time.Second,
		VerifyEvery:     15 * time.Minute,
		WebhookNetworks: []string{"127.0.0.0/8", "::1/128"},
		LogLevel:        "info",
		LogFormat:       "json",
		Gateway:         gateway.DefaultSettings(),
	}
}

// setting is one thing that can be set: by name in the file, as CREDITGATE_<NAME>, and as --<name>.
type setting struct {
	name   string
	value  *value
	secret bool   // never shown
	help   string // what it is, and its unit where the value does not say it
}

// settings is the one place where settings are documented: --help and the table in the README are made from it.
func (c *config) settings() []setting {
	return slices.Concat(c.required(), c.towardsBackend(), c.towardsClients(), c.operation())
}

// required is what has no default, and where things are.
func (c *config) required() []setting {
	g := &c.Gateway
	return []setting{
		{
			"redis_url", text(&c.RedisURL), true,
			"Redis that holds the credit: redis://user:password@host:port/db, rediss:// for TLS, several hosts " +
				"separated by commas for a Cluster. It needs appendonly yes and maxmemory-policy noeviction. Required",
		},
		{
			"postgres_url", text(&c.PostgresURL), true,
			"Postgres that keeps the ledger, as a member of the role creditgate_writer. Required",
		},
		{
			"migrate_url", mayBeEmpty(text(&c.MigrateURL)), true,
			"the same database as the owner of the schema, for creditgate migrate only",
		},
		{"policy", text(&c.Policy), false, "policy file, or a directory of them, one product each. Required"},
		{"upstream", list(&g.Upstreams), false, "base URLs of the backend, without a path, separated by commas. Required"},
		{"admin_token", text(&g.AdminToken), true, "bearer token of the control plane, at least 16 characters. Required"},
		{"listen", text(&c.Listen), false, "address of the data plane"},
		{"admin_listen", text(&c.AdminListen), false, "address of the control plane, with /livez, /readyz and /metrics"},
		{
			"journal_dir", text(&c.JournalDir), false,
			"directory of the settlement journal, on a disk that outlives the process; one per gateway",
		},
		{
			"replay_redis_url", mayBeEmpty(text(&c.ReplayRedisURL)), true,
			"Redis that stores answers for Idempotency-Keys, at most 256 MiB in all. Empty: redis_url",
		},
	}
}

// towardsBackend is how a backend is asked, and when it is left alone.
func (c *config) towardsBackend() []setting {
	g := &c.Gateway
	return []setting{
		{"upstream_timeout", span(&g.UpstreamTimeout), false, "how long the backend may take for its whole response"},
		{
			"settle_budget", durationFrom(&g.SettleBudget, 100*time.Millisecond, 2*time.Second), false,
			"how long a call to Redis may take, reserve and settlement each, retries included; 100ms to 2s",
		},
		{"lease_margin", span(&g.LeaseMargin), false, "what a reservation outlasts upstream_timeout + settle_budget by"},
		{
			"upstream_idle", span(&g.UpstreamIdle), false,
			"how long an idle connection to the backend is kept; shorter than the backend's own keep-alive (gunicorn " +
				"2s, Node and uvicorn 5s)",
		},
		{"upstream_conns", number(&g.UpstreamConns, 1, 1<<20), false, "most connections to one backend"},
		{
			"upstream_idempotency_key", truth(&g.UpstreamIdempotencyKey), false,
			"send the reservation id to the backend as Idempotency-Key",
		},
		{
			"breaker_window", span(&g.BreakerWindow), false,
			"time over which a backend's failures are counted",
		},
		{"breaker_requests", number(&g.BreakerRequests, 1, 1<<30), false, "fewest requests in that time by which a backend is judged"},
		{"breaker_ratio", share(&g.BreakerRatio), false, "share of them that must fail, up to 1, for the backend to be left alone"},
		{"breaker_pause", span(&g.BreakerPause), false, "how long it is left alone before one request tries it again"},
	}
}

// towardsClients is what clients may do.
func (c *config) towardsClients() []setting {
	g := &c.Gateway
	return []setting{
		{"request_body_max", size(&g.RequestBodyMax, sizeMax), false, "largest request body"},
		{
			"response_buffer_max", size(&g.ResponseBufferMax, sizeMax), false,
			"largest response that is held back until it is settled; a larger one is streamed, and its end held back",
		},
		{"headers_max", size(&g.HeadersMax, sizeMax), false, "largest head of a request, and of a backend's response"},
		{
			"replay_max", size(&g.ReplayMax, meter.AnswerBodyMax), false,
			"largest answer that is stored for an Idempotency-Key, at most 1MiB",
		},
		{
			"client_timeout", span(&g.ClientTimeout), false,
			"how long a client may take to send its request, and again to take the response",
		},
		{"client_idle", span(&g.ClientIdle), false, "how long an idle client connection is kept"},
		{
			"max_in_flight", number(&g.MaxInFlight, 0, meter.InFlightMax), false,
			"most open reservations of one account; 0: " + strconv.Itoa(meter.InFlightMax),
		},
		{"prefix", text(&g.Prefix), false, "path under which the gateway's own data-plane routes live"},
		{
			"trusted_peers", mayBeEmpty(list(&g.TrustedPeers)), false,
			"IP addresses or CIDR prefixes, separated by commas, of peers that may name the account themselves and " +
				"whose X-Forwarded-* are passed on",
		},
		{"account_header", text(&g.AccountHeader), false, "header in which a trusted peer names the account"},
		{
			"key_ttl", durationFrom(&g.KeyTTL, time.Second, 10*time.Second), false,
			"how long a looked-up API key is believed, 1s to 10s: the longest that a revoked one still works",
		},
	}
}

// operation is what operators decide.
func (c *config) operation() []setting {
	g := &c.Gateway
	return []setting{
		{
			"layout", number(&c.Layout.Number, 1, 65535), false,
			"number of the layout; raised by one whenever partitions changes",
		},
		{
			"partitions", number(&c.Layout.Partitions, 1, meter.PartitionsMax), false,
			"partitions that accounts are spread over; 1 for one Redis, which more of them only cost, 4 for each master of a " +
				"Cluster. Redis and Postgres keep it, another value refuses to start",
		},
		{
			"trim_lag", span(&c.TrimLag), false,
			"how long ledger records stay in Redis after they were committed to Postgres; longer than what a failover " +
				"of Postgres can lose",
		},
		{
			"verify_every", duration(&c.VerifyEvery), false,
			"how often a gateway runs the checks of creditgate verify; the result is in the metrics creditgate_drifts and " +
				"creditgate_drift_accounts. 0: never",
		},
		{
			"webhook_networks", mayBeEmpty(list(&c.WebhookNetworks)), false,
			"IP addresses or CIDR prefixes, separated by commas, that events may be posted to besides the public " +
				"internet, also without TLS",
		},
		{
			"test_clock", truth(&c.TestClock), false,
			"let time be moved by PUT /v1/clock, for tests. Only on a database that was begun with it: one that was " +
				"begun without it refuses to start with it, and the other way round",
		},
		{
			"drain_delay", duration(&g.DrainDelay), false,
			"how long /readyz fails on shutdown before the listeners close, for balancers to notice",
		},
		{
			"shutdown_timeout", duration(&c.ShutdownTimeout), false,
			"how long requests in flight may take on shutdown; a charge that is not acknowledged by then goes to the " +
				"journal",
		},
		{
			"log_level", oneOf(&c.LogLevel, "debug", "info", "warn", "error"), false,
			"debug, info, warn or error; debug logs each request",
		},
		{"log_format", oneOf(&c.LogFormat, "json", "console"), false, "json, or console for people"},
	}
}

// require says which of the named settings are missing, all at once.
func (c *config) require(names ...string) error {
	var errs []error
	for _, s := range c.settings() {
		for _, name := range names {
			if s.name == name && s.value.String() == "" {
				errs = append(errs, fmt.Errorf("%s is not set: %s; set %s, %s, or %s in the file",
					name, firstClause(s.help), envName(name), flagName(name), name))
			}
		}
	}
	return errors.Join(errs...)
}
