package main

import (
	"errors"
	"fmt"
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
		Layout:          meter.Layout{Number: 1, Partitions: 4},
		TrimLag:         15 * time.Minute,
		ShutdownTimeout: 75 * time.Second,
		VerifyEvery:     15 * time.Minute,
		LogLevel:        "info",
		LogFormat:       "json",
		Gateway:         gateway.DefaultSettings(),
	}
}

// setting is one thing that can be set: by name in the file, as CREDITGATE_<NAME>, and as --<name>.
type setting struct {
	name   string
	value  *value
	help   string // what it is, and its unit where the value does not say it
	secret bool   // never shown
}

// settings is the one place where settings are documented: --help and the table in the README are made from it.
// The order is the reader's: what must be set, then what may.
func (c *config) settings() []setting {
	g := &c.Gateway
	return []setting{
		{"redis_url", text(&c.RedisURL), "Redis that holds the credit: redis://user:password@host:port/db, rediss:// for TLS, " +
			"several hosts separated by commas for a Cluster. It needs appendonly yes and maxmemory-policy noeviction. Required", true},
		{"postgres_url", text(&c.PostgresURL), "Postgres that keeps the ledger, as a member of the role creditgate_writer. Required", true},
		{"migrate_url", text(&c.MigrateURL), "the same database as the owner of the schema, for creditgate migrate only", true},
		{"policy", text(&c.Policy), "policy file, or a directory of them, one product each. Required", false},
		{"upstream", list(&g.Upstreams), "base URLs of the backend, without a path, separated by commas. Required", false},
		{"admin_token", text(&g.AdminToken), "bearer token of the control plane, at least 16 characters. Required", true},
		{"listen", text(&c.Listen), "address of the data plane", false},
		{"admin_listen", text(&c.AdminListen), "address of the control plane, with /livez, /readyz and /metrics", false},
		{"journal_dir", text(&c.JournalDir), "directory of the settlement journal, on a disk that outlives the process; " +
			"one per gateway", false},
		{"replay_redis_url", text(&c.ReplayRedisURL), "Redis that stores answers for Idempotency-Keys, at most 256 MiB in all. " +
			"Empty: redis_url", true},

		{"upstream_timeout", duration(&g.UpstreamTimeout), "how long the backend may take for its whole response", false},
		{"settle_budget", duration(&g.SettleBudget), "how long a call to Redis may take, reserve and settlement each, retries included", false},
		{"lease_margin", duration(&g.LeaseMargin), "what a reservation outlasts upstream_timeout + settle_budget by", false},
		{"upstream_idle", duration(&g.UpstreamIdle), "how long an idle connection to the backend is kept; shorter than the backend's own " +
			"keep-alive (gunicorn 2s, Node and uvicorn 5s)", false},
		{"upstream_conns", number(&g.UpstreamConns, 1, 1<<20), "most connections to one backend", false},
		{"upstream_idempotency_key", truth(&g.UpstreamIdempotencyKey), "send the reservation id to the backend as Idempotency-Key", false},
		{"breaker_window", duration(&g.BreakerWindow), "a backend is left alone when at least breaker_requests ended within this time", false},
		{"breaker_requests", number(&g.BreakerRequests, 1, 1<<30), "… requests, and", false},
		{"breaker_ratio", share(&g.BreakerRatio), "… this share of them failed, from 0 to 1", false},
		{"breaker_pause", duration(&g.BreakerPause), "how long it is left alone before one request tries it again", false},

		{"request_body_max", size(&g.RequestBodyMax), "largest request body", false},
		{"response_buffer_max", size(&g.ResponseBufferMax), "largest response that is held back until it is settled; a larger one is " +
			"streamed, and its end held back", false},
		{"headers_max", size(&g.HeadersMax), "largest head of a request, and of a backend's response", false},
		{"replay_max", size(&g.ReplayMax), "largest answer that is stored for an Idempotency-Key", false},
		{"client_timeout", duration(&g.ClientTimeout), "how long a client may take to send its request, and again to take the response", false},
		{"client_idle", duration(&g.ClientIdle), "how long an idle client connection is kept", false},
		{"max_in_flight", number(&g.MaxInFlight, 0, meter.InFlightMax), "most open reservations of one account; 0: " +
			fmt.Sprint(meter.InFlightMax), false},
		{"prefix", text(&g.Prefix), "path under which the gateway's own data-plane routes live", false},
		{"trusted_peers", list(&g.TrustedPeers), "IP addresses or CIDR prefixes, separated by commas, of peers that may name the account " +
			"themselves and whose X-Forwarded-* are passed on", false},
		{"account_header", text(&g.AccountHeader), "header in which a trusted peer names the account", false},
		{"key_ttl", duration(&g.KeyTTL), "how long a looked-up API key is believed, 1s to 10s: the longest that a revoked one still works", false},

		{"layout", number(&c.Layout.Number, 1, 65535), "number of the layout; raised by one whenever partitions changes", false},
		{"partitions", number(&c.Layout.Partitions, 1, meter.PartitionsMax), "partitions that accounts are spread over; 4 per Redis " +
			"master. Redis and Postgres keep it, another value refuses to start", false},
		{"trim_lag", duration(&c.TrimLag), "how long ledger records stay in Redis after they were committed to Postgres; longer than " +
			"what a failover of Postgres can lose", false},
		{"verify_every", duration(&c.VerifyEvery), "how often every account in Redis is compared with Postgres; the result is the metric " +
			"creditgate_drift_accounts. 0: never", false},
		{"drain_delay", duration(&g.DrainDelay), "how long /readyz fails on shutdown before the listeners close, for balancers to notice", false},
		{"shutdown_timeout", duration(&c.ShutdownTimeout), "how long requests in flight may take on shutdown; a charge that is not " +
			"acknowledged by then goes to the journal", false},
		{"log_level", oneOf(&c.LogLevel, "debug", "info", "warn", "error"), "debug, info, warn or error; debug logs each request", false},
		{"log_format", oneOf(&c.LogFormat, "json", "console"), "json, or console for people", false},
	}
}

// require says which of the named settings are missing, all at once.
func (c *config) require(names ...string) error {
	var errs []error
	for _, s := range c.settings() {
		for _, name := range names {
			if s.name == name && s.value.String() == "" {
				errs = append(errs, fmt.Errorf("%s is not set: it is the %s; set %s, %s, or %s in the file",
					name, firstClause(s.help), envName(name), flagName(name), name))
			}
		}
	}
	return errors.Join(errs...)
}
