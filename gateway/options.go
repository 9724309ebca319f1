package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"creditgate/meter"
	"creditgate/meter/outage"
	"creditgate/meter/policy"
)

// Settings are the knobs of the gateway. A zero value means the default named beside it. How they are named and read is
// up to cmd/creditgate/settings.go.
type Settings struct {
	// Upstreams are the backends' base URLs, http or https, without a path. Requests are spread over them.
	Upstreams []string
	// Prefix is where the gateway's own data-plane routes live. Default /credits.
	Prefix string
	// AdminToken opens the control plane. Required, at least 16 characters.
	AdminToken string

	// UpstreamTimeout is how long the backend may take for its whole response. Default 60s.
	UpstreamTimeout time.Duration
	// SettleBudget is how long a call to the meter may take, reserve and settlement each. Default 2s.
	SettleBudget time.Duration
	// LeaseMargin is what a lease outlasts upstream timeout and settle budget by. Default 5s.
	LeaseMargin time.Duration
	// UpstreamIdle is how long an idle connection to the backend is kept; it must be shorter than the backend's own
	// keep-alive (gunicorn 2 s, Node and uvicorn 5 s). Default 1s.
	UpstreamIdle time.Duration
	// UpstreamConns is the most connections to one backend. Default 4096.
	UpstreamConns int
	// UpstreamIdempotencyKey sends the reservation id to the backend as Idempotency-Key. Default false.
	UpstreamIdempotencyKey bool

	// RequestBodyMax is the largest request body in bytes. Default 32 MiB.
	RequestBodyMax int
	// ResponseBufferMax is the largest response in bytes that is held back until it is settled; a larger one is
	// streamed, and its end held back. Default 64 MiB.
	ResponseBufferMax int
	// HeadersMax is the largest request head in bytes, and the largest response head of a backend. Default 32 KiB.
	HeadersMax int
	// ReplayMax is the largest body in bytes of an answer that is stored for an Idempotency-Key. Default and maximum
	// 1 MiB.
	ReplayMax int
	// ClientTimeout is how long a client may take to send its request, and again to take the response, or one part
	// of a streamed one. Default 60s.
	ClientTimeout time.Duration
	// ClientIdle is how long an idle client connection is kept. Default 75s.
	ClientIdle time.Duration
	// MaxInFlight is the most open reservations of one account. Default: the meter's own limit.
	MaxInFlight uint32

	// TrustedPeers may name the account themselves in AccountHeader, and their X-Forwarded-For, -Proto and -Host are
	// passed on: IP addresses or CIDR prefixes. Default none.
	TrustedPeers []string
	// AccountHeader is the header in which a trusted peer names the account. Default X-Account-Id.
	AccountHeader string
	// KeyTTL is how long a looked-up API key is believed, and so the longest that a revoked one still works.
	// Default and maximum 10s.
	KeyTTL time.Duration

	// BreakerWindow, BreakerRequests and BreakerRatio: a backend is left alone when at least so many requests in
	// this window ended, and this share of them failed. Defaults 10s, 20, 0.5.
	BreakerWindow   time.Duration
	BreakerRequests uint32
	BreakerRatio    float64
	// BreakerPause is how long it is left alone before a request may try it again. Default 5s.
	BreakerPause time.Duration

	// DrainDelay is how long /readyz fails on shutdown before the listeners close, for balancers to notice.
	// Default 0.
	DrainDelay time.Duration
}

// Options is what a Gateway is made of.
type Options struct {
	Settings
	Policies *policy.Catalog
	Source   PolicySource // what Reload reads
	Fleet    Fleet        // the other gateways, which reload too
	Clock    *meter.Clock // what is in force, and when; nil: the system's

	Meter         Meter
	Lookup        Lookup
	Journal       Journal
	Answers       Answers
	Identities    Identities
	Ledger        Ledger
	Statements    Statements
	Admin         Admin
	Subscriptions Subscriptions
	Purchases     Purchases
	Health        Health
	Feed          Feed
	Webhooks      Webhooks
	TestClock     TestClock // nil: time cannot be moved

	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer // what /metrics shows
	Log        zerolog.Logger
	Outages    *outage.Watch // counts what fails because of a server that is away; nil: each failure is logged
}

// keyTTLMax is the contract: a revoked key stops within 10 seconds.
const keyTTLMax = 10 * time.Second

const adminTokenMin = 16

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// DefaultSettings are the defaults, for whoever shows them. What has none is left empty.
func DefaultSettings() Settings {
	var s Settings
	s.setDefaults()
	return s
}

func (s *Settings) setDefaults() {
	orElse(&s.Prefix, "/credits")
	orElse(&s.UpstreamTimeout, time.Minute)
	orElse(&s.SettleBudget, 2*time.Second)
	orElse(&s.LeaseMargin, 5*time.Second)
	orElse(&s.UpstreamIdle, time.Second)
	orElse(&s.UpstreamConns, 4096)
	orElse(&s.RequestBodyMax, 32<<20)
	orElse(&s.ResponseBufferMax, 64<<20)
	orElse(&s.HeadersMax, 32<<10)
	orElse(&s.ReplayMax, meter.AnswerBodyMax)
	orElse(&s.ClientTimeout, time.Minute)
	orElse(&s.ClientIdle, 75*time.Second)
	orElse(&s.AccountHeader, "X-Account-Id")
	orElse(&s.KeyTTL, keyTTLMax)
	orElse(&s.BreakerWindow, 10*time.Second)
	orElse(&s.BreakerRequests, 20)
	orElse(&s.BreakerRatio, 0.5)
	orElse(&s.BreakerPause, 5*time.Second)
}

// lease is how long a reservation outlives its request at worst: the backend's time, the settlement's, a margin.
func (s *Settings) lease() time.Duration { return s.UpstreamTimeout + s.SettleBudget + s.LeaseMargin }

func (s *Settings) validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if len(s.Upstreams) == 0 {
		bad("upstream: not set; give the backend's URL, such as http://127.0.0.1:9000")
	}
	for _, u := range s.Upstreams {
		if _, err := parseUpstream(u); err != nil {
			errs = append(errs, err)
		}
	}
	if !strings.HasPrefix(s.Prefix, "/") || strings.HasSuffix(s.Prefix, "/") || !canonicalPath(s.Prefix) {
		bad("prefix: %q must begin with / and not end with it, such as /credits", s.Prefix)
	}
	if len(s.AdminToken) < adminTokenMin {
		bad("admin_token: must have at least %d characters; make one with: openssl rand -hex 32", adminTokenMin)
	}
	if s.KeyTTL > keyTTLMax || s.KeyTTL < time.Second {
		bad("key_ttl: %s must lie between 1s and %s, so that a revoked key stops in time", s.KeyTTL, keyTTLMax)
	}
	if s.lease() < meter.LeaseMin || s.lease() > meter.LeaseMax {
		bad("upstream_timeout, settle_budget and lease_margin: their sum %s is the lease and must lie between %s and %s",
			s.lease(), meter.LeaseMin, meter.LeaseMax)
	}
	if s.BreakerRatio < 0 || s.BreakerRatio > 1 {
		bad("breaker_ratio: %v must lie between 0 and 1", s.BreakerRatio)
	}
	if s.ReplayMax > meter.AnswerBodyMax {
		bad("replay_max: %d must be at most %d", s.ReplayMax, meter.AnswerBodyMax)
	}
	for name, d := range map[string]time.Duration{
		"upstream_timeout": s.UpstreamTimeout, "settle_budget": s.SettleBudget, "lease_margin": s.LeaseMargin,
		"upstream_idle": s.UpstreamIdle, "client_timeout": s.ClientTimeout, "client_idle": s.ClientIdle,
		"breaker_window": s.BreakerWindow, "breaker_pause": s.BreakerPause,
	} {
		if d < 0 {
			bad("%s: %s must be positive", name, d)
		}
	}
	for name, n := range map[string]int{
		"upstream_conns": s.UpstreamConns, "request_body_max": s.RequestBodyMax, "headers_max": s.HeadersMax,
		"response_buffer_max": s.ResponseBufferMax, "replay_max": s.ReplayMax,
	} {
		if n < 0 {
			bad("%s: %d must be positive", name, n)
		}
	}
	if _, err := parsePeers(s.TrustedPeers); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func parseUpstream(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		return nil, fmt.Errorf("upstream: %q has no scheme; write http://%s, or https:// for TLS", shorten(s), shorten(s))
	}
	u, err := url.Parse(s)
	switch {
	case err != nil: // the text may have a password in it
		return nil, errors.New("upstream: is not a URL; write http://host:port, such as http://127.0.0.1:9000")
	case u.User != nil:
		return nil, fmt.Errorf("upstream: %s must not have a user or password; write %s://%s", u.Redacted(), u.Scheme, u.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("upstream: %q must begin with http:// or https://", s)
	case u.Host == "":
		return nil, fmt.Errorf("upstream: %q has no host; write http://host:port, such as http://127.0.0.1:9000", s)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("upstream: %q must have neither path nor query, since a request's own path is forwarded; write %s://%s",
			s, u.Scheme, u.Host)
	}
	return u, nil
}

func parsePeers(list []string) ([]netip.Prefix, error) {
	peers := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if addr, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("trusted_peers: %q is neither an IP address nor a CIDR prefix", s)
		}
		peers = append(peers, p.Masked())
	}
	return peers, nil
}

func (o *Options) validate() error {
	errs := []error{o.Settings.validate()}
	for name, missing := range map[string]bool{
		"Policies": o.Policies == nil || len(o.Policies.Products()) == 0, "Source": o.Source == nil, "Fleet": o.Fleet == nil,
		"Meter": o.Meter == nil, "Lookup": o.Lookup == nil,
		"Journal": o.Journal == nil, "Answers": o.Answers == nil, "Identities": o.Identities == nil,
		"Ledger": o.Ledger == nil, "Statements": o.Statements == nil, "Admin": o.Admin == nil,
		"Purchases": o.Purchases == nil, "Subscriptions": o.Subscriptions == nil, "Health": o.Health == nil,
		"Feed": o.Feed == nil, "Webhooks": o.Webhooks == nil,
		"Registerer": o.Registerer == nil, "Gatherer": o.Gatherer == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("gateway: Options.%s is not set", name))
		}
	}
	return errors.Join(errs...)
}
