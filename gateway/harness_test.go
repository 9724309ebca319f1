package gateway_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/outage"
	"creditgate/meter/policy"
	"creditgate/meter/redisd"
)

const adminToken = "a-token-for-tests-only"

const testPolicy = `
name: studio
timezone: Europe/Berlin
buckets: [promo, monthly, purchased]
operations:
  apply:
    match: POST /studio/apply
    units: len(body.photos)
    max: 50
    credits: 1
    delivered: count(response.results, .status == "ok")
  generate:
    match: POST /v1/images/generations
    units: body.n ?? 1
    max: 10
    credits: 1
    delivered: len(response.data)
  plain:
    match: POST /plain
    credits: 2
  upscale:
    match: POST /upscale/{id}
    credits: 1
  revert:
    match: POST /studio/revert
    credits: 0
unmatched: refuse
`

// backend is a real fasthttp server whose answer each test decides.
type backend struct {
	url    string
	calls  atomic.Int64
	server *fasthttp.Server
	mu     sync.Mutex
	handle fasthttp.RequestHandler
}

func startBackend(tb testing.TB) *backend {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	b := &backend{url: "http://" + ln.Addr().String()}
	b.answer(200, `{"ok":true}`)
	b.server = &fasthttp.Server{
		NoDefaultServerHeader: true, DisablePreParseMultipartForm: true, MaxRequestBodySize: 64 << 20,
		Handler: func(ctx *fasthttp.RequestCtx) {
			b.calls.Add(1)
			b.mu.Lock()
			h := b.handle
			b.mu.Unlock()
			h(ctx)
		},
	}
	go func() { _ = b.server.Serve(ln) }()
	tb.Cleanup(func() { _ = ln.Close() })
	return b
}

func (b *backend) on(h fasthttp.RequestHandler) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handle = h
}

func (b *backend) answer(status int, body string) {
	b.on(func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(status)
		ctx.SetContentType("application/json")
		ctx.SetBodyString(body)
	})
}

// bundle is one gateway on a real Redis, before a real backend. Postgres is played by maps.
type bundle struct {
	*faults
	t       testing.TB
	redis   *redisd.Server
	engine  *meter.Engine
	book    *metertest.Book
	backend *backend
	gateway *gateway.Gateway
	options gateway.Options
	reg     *prometheus.Registry
	data    string // base URL
	admin   string
	client  *http.Client
	house   *house
	journal *journalFake
	notices *notices
	stop    func()
}

func setup(tb testing.TB, tweaks ...func(*gateway.Options)) *bundle {
	tb.Helper()
	layout := meter.Layout{Number: 1, Partitions: 2}
	b := &bundle{t: tb, redis: redisd.Test(tb), backend: startBackend(tb), book: metertest.NewBook(layout)}
	b.reg = prometheus.NewRegistry()
	log := zerolog.New(zerolog.NewTestWriter(tb)).Level(zerolog.ErrorLevel)
	engine, err := meter.New(meter.Options{
		RedisURL: b.redis.URL(), Layout: layout, Book: b.book, Rebuild: b.book, Log: log, Metrics: b.reg,
	})
	require.NoError(tb, err)
	b.engine = engine
	answers, err := meter.NewReplayStore(b.redis.URL(), layout)
	require.NoError(tb, err)
	b.faults = &faults{Engine: engine}
	b.house = &house{
		book: b.book, engine: engine, keys: map[[32]byte]gateway.Identity{}, accounts: map[string]gateway.AccountState{},
	}
	b.journal = &journalFake{}
	b.notices = &notices{webhooks: map[string]gateway.NewWebhook{}}

	pol, err := policy.Parse("studio.yaml", []byte(testPolicy))
	require.NoError(tb, err)
	o := gateway.Options{
		Settings: gateway.Settings{
			Upstreams: []string{b.backend.url}, AdminToken: adminToken,
			UpstreamTimeout: 15 * time.Second, LeaseMargin: time.Second, BreakerRequests: 1000,
		},
		Policies: policy.NewCatalog(map[string]*policy.Policy{"studio": pol}),
		Source:   b.house, Fleet: b.house, Meter: b.faults, Lookup: engine, Journal: b.journal, Answers: answers, Identities: b.house,
		Ledger: b.house, Statements: b.house, Admin: b.house, Purchases: b.house,
		Subscriptions: struct{ gateway.Subscriptions }{}, // cmd tests their routes, on the real system
		Health:        b.house, Feed: b.notices, Webhooks: b.notices, Registerer: b.reg, Gatherer: b.reg, Log: log,
	}
	for _, tweak := range tweaks {
		tweak(&o)
	}
	b.options = o
	b.gateway, err = gateway.New(tb.Context(), o)
	require.NoError(tb, err)
	b.run(layout)
	return b
}

func (b *bundle) run(layout meter.Layout) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	var work sync.WaitGroup
	work.Go(func() { _ = b.engine.Run(ctx) })
	for p := range layout.Partitions {
		work.Go(func() { b.flush(ctx, p) })
	}
	data, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b.t, err)
	control, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b.t, err)
	b.data, b.admin = "http://"+data.Addr().String(), "http://"+control.Addr().String()
	work.Go(func() { _ = b.gateway.Run(ctx, data, control) })
	b.client = &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	b.stop = sync.OnceFunc(func() {
		b.client.CloseIdleConnections()
		grace, end := context.WithTimeout(context.WithoutCancel(b.t.Context()), 5*time.Second)
		defer end()
		_ = b.gateway.Shutdown(grace)
		cancel()
		work.Wait()
	})
	b.t.Cleanup(b.stop)
}

// flush plays the flusher: it folds the ledger into the book.
func (b *bundle) flush(ctx context.Context, p uint16) {
	for ctx.Err() == nil {
		at, _ := b.book.Cursor(ctx, p)
		records, _, err := b.engine.Ledger().Read(ctx, p, at.Position, 1000, 50*time.Millisecond)
		if err != nil || len(records.List) == 0 {
			continue
		}
		if err := b.book.Fold(records.List); err != nil {
			panic(err)
		}
		_ = b.engine.Ledger().Flushed(ctx, p, records.List[len(records.List)-1].Position, meter.Position{})
	}
}

// account makes an account with a key and one grant of purchased credit.
func (b *bundle) account(name string, credits meter.Credits) (key string) {
	b.t.Helper()
	b.house.add(name)
	if credits > 0 {
		b.grant(name, "purchased", 2, credits)
	}
	return "sk-" + name
}

func (b *bundle) grant(account, bucket string, rank uint8, credits meter.Credits) meter.ID {
	b.t.Helper()
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: bucket, Rank: rank, Available: credits, ExpiresMs: meter.Never,
		CreatedMs: time.Now().UnixMilli(),
	}
	d, err := b.house.apply(b.t.Context(), account, g)
	require.NoError(b.t, err)
	require.Equal(b.t, meter.CodeOK, d.Code)
	return g.ID
}

// wallet is what an account has and holds, straight from the engine.
func (b *bundle) wallet(account string) (available, held meter.Credits) {
	b.t.Helper()
	d, err := b.engine.Balance(b.t.Context(), account)
	require.NoError(b.t, err)
	return d.Account.Available(d.NowMs), d.Account.Held()
}

type reply struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

func (r *reply) json(tb testing.TB) map[string]any {
	tb.Helper()
	out := map[string]any{}
	require.NoError(tb, json.Unmarshal(r.body, &out), "%s", r.body)
	return out
}

func (b *bundle) do(method, url, key, body string, headers ...string) *reply {
	b.t.Helper()
	r, err := b.try(method, url, key, body, headers...)
	require.NoError(b.t, err)
	return r
}

func (b *bundle) try(method, url, key, body string, headers ...string) (*reply, error) {
	req, err := http.NewRequestWithContext(b.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := &reply{Response: resp}
	r.body, r.err = io.ReadAll(resp.Body)
	return r, nil
}

func (b *bundle) post(path, key, body string, headers ...string) *reply {
	b.t.Helper()
	return b.do(http.MethodPost, b.data+path, key, body, headers...)
}

func (b *bundle) control(method, path, body string, headers ...string) *reply {
	b.t.Helper()
	return b.do(method, b.admin+path, adminToken, body, headers...)
}

// raw sends bytes as they are and returns the first response, for requests that no client library would make.
func (b *bundle) raw(request string) *reply {
	b.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(b.data, "http://"))
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = c.Close() })
	require.NoError(b.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(c, request)
	require.NoError(b.t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	r := &reply{Response: resp}
	r.body, r.err = io.ReadAll(resp.Body)
	require.NoError(b.t, r.err)
	return r
}

// faults is the real engine, with the faults that a test plants before it.
type faults struct {
	*meter.Engine
	reserve func(meter.Reserve) error
	commit  func(meter.Settle) error
}

func (f *faults) Reserve(ctx context.Context, r meter.Reserve) (meter.Decision, error) {
	if f.reserve != nil {
		if err := f.reserve(r); err != nil {
			return meter.Decision{}, err
		}
	}
	return f.Engine.Reserve(ctx, r)
}

func (f *faults) Commit(ctx context.Context, s meter.Settle) (meter.Decision, error) {
	if f.commit != nil {
		if err := f.commit(s); err != nil {
			return meter.Decision{}, err
		}
	}
	return f.Engine.Commit(ctx, s)
}

// journalFake keeps what was appended, for a test to look at and replay.
type journalFake struct {
	mu   sync.Mutex
	kept []meter.Settle
	err  error
}

func (j *journalFake) Append(s meter.Settle, _ time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	j.kept = append(j.kept, s)
	return nil
}

func (j *journalFake) entries() []meter.Settle {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]meter.Settle(nil), j.kept...)
}

// house plays package persist: accounts and keys in maps, grants applied through the engine.
type house struct {
	till     till
	mu       sync.Mutex
	book     *metertest.Book
	engine   *meter.Engine
	keys     map[[32]byte]gateway.Identity
	accounts map[string]gateway.AccountState
	grants   map[string]gateway.GrantState
	entries  []gateway.LedgerEntry
	caps     []gateway.FairUseCap
	owed     meter.Credits
	usage    gateway.Usage
	asked    gateway.UsageQuery
	history  gateway.HistoryQuery
	lookups  atomic.Int64
	err      error // what Postgres answers while it is away
	closed   []meter.PartitionState
	files    map[string]*policy.Policy // what a reload reads
	mistake  error
	uses     []gateway.PolicyUse
	holding  []gateway.BucketUse
	fleet    fleetRows
}

// fleetRows are the gateways as their table has them.
type fleetRows struct {
	own    *gateway.Standing
	others []gateway.Standing
	newest int64
	age    time.Duration // of the newest request
}

func (h *house) Renew(_ context.Context, s gateway.Standing) (int64, time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Name = "own:1"
	h.fleet.own = &s
	return h.fleet.newest, h.fleet.age, h.err
}

func (h *house) RequestReload(context.Context) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.fleet.newest++
	}
	return h.fleet.newest, h.err
}

func (h *house) Gateways(context.Context) ([]gateway.Standing, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]gateway.Standing{*h.fleet.own}, h.fleet.others...), h.err
}

func (h *house) Leave(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fleet.own = nil
	return nil
}

func (h *house) add(account string) {
	h.book.AddAccount(account)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accounts[account] = gateway.AccountState{Account: account, Product: "studio", CreatedAt: time.Now(), Applied: true}
	h.keys[sha256.Sum256([]byte("sk-"+account))] = gateway.Identity{Account: account, Product: "studio", KeyID: "k-" + account}
}

// forget removes an account.
func (h *house) forget(account string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.accounts, account)
}

// agree gives an account a subscription and negotiated prices.
func (h *house) agree(account string, terms policy.History, prices ...policy.UnitPrice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := sha256.Sum256([]byte("sk-" + account))
	who := h.keys[key]
	who.Terms, who.Prices = terms, prices
	h.keys[key] = who
}

// apply writes a grant down and applies it, as package persist does.
func (h *house) apply(ctx context.Context, account string, g meter.Grant) (meter.Decision, error) {
	h.book.AddLot(g)
	at, _ := h.book.Cursor(ctx, h.book.Layout.PartitionOf(account))
	return h.engine.Grant(ctx, meter.GrantChange{Account: account, Grant: g, CheckedPseq: at.Pseq})
}

func (h *house) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *house) IdentityByKey(_ context.Context, hash [32]byte) (gateway.Identity, error) {
	h.lookups.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	who, ok := h.keys[hash]
	if h.err != nil {
		return gateway.Identity{}, h.err
	}
	if !ok {
		return gateway.Identity{}, gateway.ErrUnknown
	}
	who.Suspended = h.accounts[who.Account].Suspended
	return who, nil
}

func (h *house) IdentityByAccount(_ context.Context, account string) (gateway.Identity, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.accounts[account]
	if !ok {
		return gateway.Identity{}, gateway.ErrUnknown
	}
	if h.err != nil {
		return gateway.Identity{}, h.err
	}
	who := h.keys[sha256.Sum256([]byte("sk-"+account))]
	return gateway.Identity{
		Account: account, Product: a.Product, Suspended: a.Suspended, Terms: who.Terms, Prices: who.Prices,
	}, nil
}

func (h *house) Entries(_ context.Context, q gateway.HistoryQuery) ([]gateway.LedgerEntry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history = q
	before, limit := q.Before, q.Limit
	var out []gateway.LedgerEntry
	for _, e := range h.entries {
		if (before == 0 || e.Seq < before) && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, h.err
}

// Statement says what the test has set.
func (h *house) Statement(context.Context, string, []meter.ID, time.Time) (gateway.Statement, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return gateway.Statement{Caps: h.caps, Owed: h.owed}, h.err
}

// Usage answers what the test says, and keeps the question.
func (h *house) Usage(_ context.Context, q gateway.UsageQuery) (gateway.Usage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = q
	return h.usage, h.err
}

func (h *house) Load() (map[string]*policy.Policy, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files, h.mistake
}

func (h *house) Uses(context.Context, []string) ([]gateway.PolicyUse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.uses, h.err
}

func (h *house) BucketUses(
	_ context.Context, _ []string, wanted func(string, string, uint8) bool,
) (uses []gateway.BucketUse, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, u := range h.holding {
		if wanted(u.Product, u.Bucket, u.Rank) {
			uses = append(uses, u)
		}
	}
	return uses, h.err
}

func (h *house) Buckets(_ context.Context, _ string, ids []meter.ID) (map[meter.ID]string, error) {
	out := map[meter.ID]string{}
	for _, id := range ids {
		out[id] = "purchased"
	}
	return out, nil
}

func (h *house) PutAccount(_ context.Context, c gateway.AccountChange) (gateway.AccountState, error) {
	h.mu.Lock()
	a, there := h.accounts[c.Account]
	h.mu.Unlock()
	if h.err != nil {
		return a, h.err
	}
	if !there {
		h.add(c.Account)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a = h.accounts[c.Account]
	if c.Suspended != nil {
		a.Suspended = *c.Suspended
	}
	h.accounts[c.Account] = a
	a.Created = !there
	return a, nil
}

func (h *house) AccountState(_ context.Context, account string) (gateway.AccountState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.accounts[account]
	if h.err != nil {
		return a, h.err
	}
	if !ok {
		return a, meter.ErrNoAccount
	}
	return a, nil
}

func (h *house) CreateKey(_ context.Context, k gateway.NewKey) (gateway.KeyCreated, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, who := range h.keys {
		if k.Ref != "" && who.KeyID == k.Ref {
			return gateway.KeyCreated{KeyID: who.KeyID, Repeated: true}, nil
		}
	}
	id := k.KeyID
	if k.Ref != "" {
		id = k.Ref
	}
	h.keys[k.Hash] = gateway.Identity{Account: k.Account, Product: "studio", KeyID: id}
	return gateway.KeyCreated{KeyID: id}, nil
}

func (h *house) RevokeKey(_ context.Context, account, keyID, _ string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for hash, who := range h.keys {
		if who.KeyID == keyID && who.Account == account {
			delete(h.keys, hash)
			return nil
		}
	}
	return gateway.ErrUnknown
}

func (h *house) Grant(ctx context.Context, n gateway.NewGrant) (gateway.GrantState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.grants[n.Account+n.Ref]; ok {
		if old.Credits != n.Credits || old.Bucket != n.Bucket {
			return old, gateway.ErrConflict
		}
		old.Repeated = true
		return old, nil
	}
	g := meter.Grant{
		ID: meter.NewID(time.Now()), Bucket: n.Bucket, Rank: n.Rank, Available: n.Credits, ExpiresMs: meter.Never,
		CreatedMs: time.Now().UnixMilli(),
	}
	_, err := h.apply(ctx, n.Account, g)
	s := gateway.GrantState{
		GrantID: g.ID, Bucket: n.Bucket, Credits: n.Credits, EffectiveAt: time.Now(), ExpiresAt: n.ExpiresAt,
		Ref: n.Ref, Applied: err == nil,
	}
	if h.grants == nil {
		h.grants = map[string]gateway.GrantState{}
	}
	h.grants[n.Account+n.Ref] = s
	return s, nil
}

func (h *house) MoveExpiry(_ context.Context, m gateway.ExpiryChange) (gateway.GrantState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.grants {
		if g.GrantID == m.GrantID {
			g.ExpiresAt, g.Applied = m.ExpiresAt, true
			return g, nil
		}
	}
	return gateway.GrantState{}, gateway.ErrUnknown
}

func (h *house) Revoke(_ context.Context, r gateway.NewRevocation) (gateway.RevocationState, error) {
	return gateway.RevocationState{
		RevocationID: meter.NewID(time.Now()), GrantID: r.GrantID, Credits: r.Credits, Ref: r.Ref, Applied: true,
	}, h.err
}

func (h *house) Redis() outage.State { return h.engine.RedisState() }

func (h *house) Postgres() outage.State { return outage.State{Up: true} }

func (h *house) Quarantined() int { return 0 }

func (h *house) Closed() []meter.PartitionState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}
