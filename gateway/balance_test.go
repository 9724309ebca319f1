package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/policy"
)

// seed loads an embedded policy, and lets a test change it.
func seed(name string, change ...func(*policy.Policy)) func(*gateway.Options) {
	return func(o *gateway.Options) {
		src, err := policy.Example(name)
		if err != nil {
			panic(err)
		}
		p, err := policy.Parse(name, src)
		if err != nil {
			panic(err)
		}
		for _, c := range change {
			c(p)
		}
		o.Policies = policy.NewCatalog(map[string]*policy.Policy{"studio": p})
	}
}

// lot is a grant by bucket and by days from now.
type lot struct {
	bucket      string
	rank        uint8
	credits     meter.Credits
	begins, end time.Duration // end 0: never
	flags       func(*meter.Grant)
}

const day = 24 * time.Hour

// give grants lots; moments are whole seconds after now, which is returned.
func (b *bundle) give(account string, lots ...lot) (now time.Time) {
	b.t.Helper()
	now = time.Now().Truncate(time.Second)
	for _, l := range lots {
		g := meter.Grant{
			ID: meter.NewID(time.Now()), Bucket: l.bucket, Rank: l.rank, Available: l.credits * meter.Credit,
			EffectiveMs: now.Add(l.begins).UnixMilli(), ExpiresMs: meter.Never, CreatedMs: now.UnixMilli(),
		}
		if l.end > 0 {
			g.ExpiresMs = now.Add(l.end).UnixMilli()
		}
		if l.flags != nil {
			l.flags(&g)
		}
		d, err := b.house.apply(b.t.Context(), account, g)
		require.NoError(b.t, err)
		require.Equal(b.t, meter.CodeOK, d.Code)
	}
	return now
}

func on(plan string, slots uint32) policy.History {
	began := time.Now().Add(-time.Hour)
	return policy.History{{At: began, Plan: plan, Slots: slots, Anchor: began}}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// The header shows the total (B34), the billing page each bucket (B35), both with the next reset and what it brings.
func TestHeaderAndBillingPage(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("ai-background-studio"))
	key := b.account("acme", 0)
	b.house.agree("acme", on("professional_plus", 50))
	now := b.give(
		"acme", lot{bucket: "promo", credits: 20, end: 2 * day},
		lot{bucket: "monthly", rank: 1, credits: 500, end: 3 * day},
		lot{bucket: "monthly", rank: 1, credits: 510, begins: 3 * day, end: 33 * day},
		lot{bucket: "promo", credits: 7, begins: 3 * day, end: 9 * day},
		lot{bucket: "promo", credits: 9, begins: day, end: 9 * day}, // promised, and no reset
		lot{bucket: "purchased", rank: 2, credits: 50, end: 365 * day},
		lot{bucket: "purchased", rank: 2, credits: 1, end: 400 * day},
	)
	r := b.do(http.MethodGet, b.data+"/credits/balance", key, "")
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	reset := stamp(now.Add(3 * day))
	require.JSONEq(t, `{"account":"acme","available":571,"held":0,"debt":0,"plan":"professional_plus",
		"next_reset_at":"`+reset+`","next_reset":{"at":"`+reset+`","credits":517},"buckets":[
		{"name":"promo","available":20,"held":0,"unlimited":false,"next_expiry":{"credits":20,"at":"`+stamp(now.Add(2*day))+`"}},
		{"name":"monthly","available":500,"held":0,"unlimited":false,"next_expiry":{"credits":500,"at":"`+reset+`"}},
		{"name":"purchased","available":51,"held":0,"unlimited":false,
			"next_expiry":{"credits":50,"at":"`+stamp(now.Add(365*day))+`"}}]}`, string(r.body))
	require.JSONEq(t, string(r.body), string(b.control("GET", "/v1/accounts/acme/balance", "").body))

	b.house.fail(errors.New("connection refused"))
	require.JSONEq(t, string(r.body), string(b.do(http.MethodGet, b.data+"/credits/balance", key, "").body),
		"without Postgres, as far as it is known")
	b.house.fail(nil)
	b.house.owed = 2 * meter.Credit
	require.InDelta(t, 2, b.do(http.MethodGet, b.data+"/credits/balance", key, "").json(t)["debt"], 0)
}

// The editor shows the total of subscription and pack (C8), the account page what is left of the pack (C7).
func TestEditorAndAccountPage(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("3d-studio"))
	key := b.account("maker", 0)
	b.house.agree("maker", on("starter", 1))
	now := b.give(
		"maker", lot{bucket: "subscription", credits: 500, end: 12 * day},
		lot{bucket: "subscription", credits: 500, begins: 12 * day, end: 43 * day},
		lot{bucket: "pack", rank: 1, credits: 200, end: 12 * day},
	)
	b.backend.answer(200, `{"ok":true}`)
	require.Equal(t, 200, b.post("/3d/generations", key, `{"model":"ultra"}`).StatusCode)
	v := b.do(http.MethodGet, b.data+"/credits/balance", key, "").json(t)
	require.InDelta(t, 620, v["available"], 0)
	pack := v["buckets"].([]any)[1].(map[string]any)
	require.InDelta(t, 200, pack["available"], 0)
	require.Equal(t, stamp(now.Add(12*day)), pack["next_expiry"].(map[string]any)["at"])

	packs := b.do(http.MethodGet, b.data+"/credits/packs", key, "").json(t)["packs"].([]any)
	require.Len(t, packs, 2, "starter may buy two of the three")
	require.Equal(t, map[string]any{
		"name": "extra-200", "bucket": "pack", "credits": 200.0, "net_minor": 600.0, "currency": "USD", "unit_price": "0.03",
		"discount_percent": 0.0, "validity": "until the next renewal", "expires_at": stamp(now.Add(12 * day)),
		"refundable": false, "buy_url": nil,
	}, packs[0])
	require.Equal(t, "0.025", packs[1].(map[string]any)["unit_price"])
	require.InDelta(t, 16, packs[1].(map[string]any)["discount_percent"], 0, "16.67 rounded down")
}

func TestPacks(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("ai-background-studio", func(p *policy.Policy) { p.Packs[0].BuyURL = "https://shop.example.com/plus" }))
	names := func(account string) (out []string) {
		r := b.do(http.MethodGet, b.data+"/credits/packs", "sk-"+account, "")
		require.Equal(t, 200, r.StatusCode, "%s", r.body)
		for _, p := range r.json(t)["packs"].([]any) {
			out = append(out, p.(map[string]any)["name"].(string))
		}
		return out
	}
	for account, plan := range map[string]string{
		"plus": "professional_plus", "pro": "professional", "basic": "basic", "premium": "premium",
	} {
		b.account(account, 1*meter.Credit)
		b.house.agree(account, on(plan, 5))
	}
	b.account("nobody", 1*meter.Credit)
	plus := []string{"plus-50", "plus-200", "plus-500"}
	require.Equal(t, plus, names("plus"))
	require.Equal(t, plus, names("pro"))
	require.Equal(t, []string{"basic-100", "basic-500", "basic-2000"}, names("basic"))
	require.Empty(t, names("premium"))
	require.Empty(t, names("nobody"), "without a subscription")
	began := time.Now().Add(-time.Hour)
	b.account("left", 1*meter.Credit)
	b.house.agree("left", policy.History{{At: began, Plan: "basic", Anchor: began}, {At: began.Add(time.Minute), Anchor: began}})
	require.Empty(t, names("left"), "the subscription has ended")

	packs := b.do(http.MethodGet, b.data+"/credits/packs", "sk-plus", "").json(t)["packs"].([]any)
	large := packs[2].(map[string]any)
	require.Equal(t, "0.70", large["unit_price"])
	require.InDelta(t, 22, large["discount_percent"], 0)
	require.Equal(t, "1 year", large["validity"])
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	expires, err := time.Parse(time.RFC3339, large["expires_at"].(string))
	require.NoError(t, err)
	require.Equal(t, time.Now().In(berlin).AddDate(1, 0, 1).Format(time.DateOnly), expires.In(berlin).Format(time.DateOnly))
	require.Zero(t, expires.In(berlin).Hour())
}

// What somebody with too little is told: the same in a quote and in a refusal.
func TestAdvice(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("ai-background-studio"))
	b.backend.answer(200, `{"results":[]}`)
	photos := func(n int) string { return `{"background":"#ffffff","photos":[0` + strings.Repeat(",0", n-1) + `]}` }
	told := func(account string, n int) any {
		t.Helper()
		key := "sk-" + account
		refusal := b.post("/studio/apply", key, photos(n))
		require.Equal(t, 402, refusal.StatusCode, "%s", refusal.body)
		quote := b.post("/credits/quote/studio/apply", key, photos(n)).json(t)
		require.Equal(t, false, quote["affordable"])
		require.Equal(t, quote["advice"], refusal.json(t)["advice"])
		return quote["advice"]
	}
	wait := func(at time.Time, credits float64) map[string]any {
		return map[string]any{"action": "wait_for_reset", "at": stamp(at), "credits": credits}
	}
	buy := func(packs ...any) map[string]any { return map[string]any{"action": "buy", "packs": packs} }
	soon := []lot{
		{bucket: "monthly", rank: 1, credits: 3, end: 6 * day},
		{bucket: "monthly", rank: 1, credits: 10, begins: 6 * day, end: 36 * day},
		{bucket: "purchased", rank: 2, credits: 1, end: 5 * day}, // gone by then
	}
	b.account("near", 0)
	b.house.agree("near", on("professional_plus", 1))
	now := b.give("near", soon...)
	require.Equal(t, wait(now.Add(6*day), 10), told("near", 10))
	require.Equal(t, buy("plus-50", "plus-200", "plus-500"), told("near", 11), "the reset would not suffice")
	refusal := b.post("/studio/apply", "sk-near", photos(10)).json(t)
	require.Equal(t, stamp(now.Add(6*day)), refusal["next_reset_at"])

	b.account("far", 0)
	b.house.agree("far", on("professional_plus", 1))
	b.give("far", lot{bucket: "monthly", rank: 1, credits: 10, begins: 9 * day, end: 39 * day})
	require.Equal(t, buy("plus-50", "plus-200", "plus-500"), told("far", 2), "9 days are too long")

	b.account("starter", 0)
	b.house.agree("starter", on("basic", 1))
	require.Equal(t, buy("basic-100", "basic-500", "basic-2000"), told("starter", 50))
	b.account("premium", 0)
	b.house.agree("premium", on("premium", 1))
	require.Nil(t, told("premium", 2), "nothing to buy, nothing to wait for")
	b.account("nobody", 0)
	require.Nil(t, told("nobody", 2))
	rich := b.account("rich", 10*meter.Credit)
	require.Nil(t, b.post("/credits/quote/studio/apply", rich, photos(2)).json(t)["advice"], "affordable")
}

func TestAdviceNamesWhatSuffices(t *testing.T) {
	t.Parallel()
	small := func(p *policy.Policy) {
		for i, k := range p.Packs {
			k.Credits = meter.Credits(i+1) * 10 * meter.Credit
		}
		p.Rules.RefuseWhile = true
	}
	b := setup(t, seed("visual-foundry", small, func(p *policy.Policy) { p.Operations[0].Max = 100 }))
	advice := func(key, n string) any {
		t.Helper()
		return b.post("/credits/quote/v1/images/generations", key, `{"n":`+n+`}`).json(t)["advice"]
	}
	key := b.account("acme", 0)
	require.Equal(t, []any{"photos-150"}, advice(key, "25").(map[string]any)["packs"])
	require.Equal(t, []any{"photos-150"}, advice(key, "70").(map[string]any)["packs"], "none alone: several of the largest")
	some := b.account("some", 1*meter.Credit)
	require.Nil(t, advice(some, "25"), "nothing is sold while credit is left")
}

func TestAdviceIsPatienceWhileCreditIsHeld(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("visual-foundry"))
	key := b.account("acme", 2*meter.Credit)
	require.Equal(t, 201, b.control("POST", "/v1/reservations", `{"account":"acme","credits":1}`).StatusCode)
	r := b.post("/v1/images/generations", key, `{"n":2}`)
	require.Equal(t, 402, r.StatusCode)
	require.NotEmpty(t, r.Header.Get("Retry-After"))
	require.Nil(t, r.json(t)["advice"])
	require.NotNil(t, b.post("/v1/images/generations", key, `{"n":3}`).json(t)["advice"], "more than all of it")
}

func unlimited(stops bool) func(*meter.Grant) {
	return func(g *meter.Grant) { g.Unlimited, g.Stops = true, stops }
}

// Unlimited is no number: the header shows none, the cap behind it stands beside (B11).
func TestUnlimitedBalance(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("ai-background-studio"))
	key := b.account("acme", 0)
	b.house.agree("acme", on("premium", 1))
	now := b.give(
		"acme", lot{bucket: "monthly", rank: 1, credits: 20000, end: 3 * day, flags: unlimited(true)},
		lot{bucket: "monthly", rank: 1, credits: 20000, begins: 3 * day, end: 33 * day, flags: unlimited(true)},
		lot{bucket: "purchased", rank: 2, credits: 50},
	)
	b.backend.answer(200, `{"results":[{"status":"ok"},{"status":"ok"}]}`)
	r := b.post("/studio/apply", key, twoPhotos)
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.Equal(t, "unlimited", r.Header.Get("X-Credits-Remaining"))
	balance := func() string { return string(b.do(http.MethodGet, b.data+"/credits/balance", key, "").body) }
	reset := stamp(now.Add(3 * day))
	shown := func(available, monthly, purchased string) string {
		return `{"account":"acme","available":` + available + `,"held":0,"debt":0,"plan":"premium","next_reset_at":"` + reset + `",
		"next_reset":{"at":"` + reset + `","credits":null},"buckets":[
		{"name":"promo","available":0,"held":0,"unlimited":false,"next_expiry":null},
		{"name":"monthly","available":null,"held":0,"unlimited":true,"fair_use":` + monthly + `,"next_expiry":null},
		{"name":"purchased",` + purchased + `,"held":0,"unlimited":false,"next_expiry":null}]}`
	}
	b.house.fail(errors.New("connection refused"))
	require.JSONEq(t, shown("null", `{"cap":20000,"used":2,"left":19998}`, `"available":0,"waiting":50`), balance(),
		"without Postgres the cap is the policy's")
	b.house.fail(nil)
	d, err := b.engine.Balance(t.Context(), "acme")
	require.NoError(t, err)
	for _, g := range d.Account.Grants {
		if g.Unlimited {
			b.house.caps = append(b.house.caps, gateway.FairUseCap{Grant: g.ID, Bucket: g.Bucket, Credits: 30000 * meter.Credit})
			break
		}
	}
	require.JSONEq(t, shown("null", `{"cap":30000,"used":10002,"left":19998}`, `"available":0,"waiting":50`), balance(),
		"with Postgres what was granted")
	require.Empty(t, b.do(http.MethodGet, b.data+"/credits/packs", key, "").json(t)["packs"])
}

// A cap that others follow, once used up: the bucket stays unlimited, the total is what follows.
func TestUsedUpCapThatOthersFollow(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("ai-background-studio"))
	key := b.account("acme", 0)
	b.house.agree("acme", on("premium", 1))
	b.give(
		"acme", lot{bucket: "monthly", rank: 1, credits: 2, end: 3 * day, flags: unlimited(false)},
		lot{bucket: "purchased", rank: 2, credits: 50},
	)
	b.backend.answer(200, `{"results":[{"status":"ok"},{"status":"ok"}]}`)
	require.Equal(t, 200, b.post("/studio/apply", key, twoPhotos).StatusCode)
	b.house.caps = []gateway.FairUseCap{
		{Grant: meter.NewID(time.Now()), Bucket: "monthly", Credits: 2 * meter.Credit, UsedUp: true},
		{Grant: meter.NewID(time.Now()), Bucket: "promo", Credits: 2 * meter.Credit}, // not in Redis yet
	}
	v := b.do(http.MethodGet, b.data+"/credits/balance", key, "").json(t)
	require.InDelta(t, 50, v["available"], 0)
	monthly := v["buckets"].([]any)[1].(map[string]any)
	require.Equal(t, true, monthly["unlimited"])
	require.Equal(t, map[string]any{"cap": 2.0, "used": 2.0, "left": 0.0}, monthly["fair_use"])
	require.Equal(t, false, v["buckets"].([]any)[0].(map[string]any)["unlimited"])
}

// A balance does not wait for a Postgres that hangs, nor do many of them take its connections.
func TestBalanceWithoutPostgres(t *testing.T) {
	t.Parallel()
	var asked, most, shown atomic.Int64
	hang := make(chan struct{})
	b := setup(t, seed("ai-background-studio"), func(o *gateway.Options) {
		o.Statements = hanging{o.Statements, func(ctx context.Context) {
			most.Store(max(most.Load(), asked.Add(1)))
			select {
			case <-hang:
			case <-ctx.Done():
			}
			asked.Add(-1)
		}}
	})
	key := b.account("acme", 7*meter.Credit)
	var work sync.WaitGroup
	for range 12 {
		work.Go(func() {
			r, err := b.try(http.MethodGet, b.data+"/credits/balance", key, "")
			if err == nil && r.StatusCode == http.StatusOK && strings.Contains(string(r.body), `"available":7`) {
				shown.Add(1)
			}
		})
	}
	work.Wait()
	require.Equal(t, int64(12), shown.Load())
	require.LessOrEqual(t, most.Load(), int64(2))
	require.Positive(t, most.Load())
	close(hang)
}

// hanging is a Postgres that answers about statements when it is let.
type hanging struct {
	gateway.Statements

	wait func(context.Context)
}

func (h hanging) Statement(
	ctx context.Context, account string, live []meter.ID, at time.Time,
) (gateway.Statement, error) {
	h.wait(ctx)
	if ctx.Err() != nil {
		return gateway.Statement{}, ctx.Err()
	}
	return h.Statements.Statement(ctx, account, live, at)
}

// Credit that somebody promised for a later day is no reset: not on a plan that renews nothing, and not without one. What
// was negotiated there for each cycle is one.
func TestPromisedCreditIsNoReset(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("ai-background-studio"))
	promised := []lot{
		{bucket: "monthly", rank: 1, credits: 100, begins: 2 * day, end: 9 * day},
		{bucket: "promo", credits: 100, begins: 3 * day},
	}
	for name, terms := range map[string]policy.History{"starter": on("basic", 1), "nobody": nil} {
		key := b.account(name, 0)
		b.house.agree(name, terms)
		b.give(name, promised...)
		v := b.do(http.MethodGet, b.data+"/credits/balance", key, "").json(t)
		require.Nil(t, v["next_reset"], name)
		require.Nil(t, v["next_reset_at"], name)
		refusal := b.post("/studio/apply", key, twoPhotos)
		require.Equal(t, 402, refusal.StatusCode)
		p := refusal.json(t)
		require.Nil(t, p["next_reset_at"], name)
		if terms != nil {
			require.Equal(t, "buy", p["advice"].(map[string]any)["action"], "waiting is of no use")
		}
	}
	src, err := policy.Example("ai-background-studio")
	require.NoError(t, err)
	p, err := policy.Parse("ai-background-studio.yaml", src)
	require.NoError(t, err)
	terms := on("basic", 1)
	now := time.Now().Truncate(time.Second)
	next, ok := p.Renewal(terms, now)
	require.True(t, ok)
	after, ok := p.Renewal(terms, next)
	require.True(t, ok)
	key := b.account("dealer", 0)
	b.house.agree("dealer", terms)
	whole := func(g *meter.Grant) { g.EffectiveMs, g.ExpiresMs = next.UnixMilli(), after.UnixMilli() }
	b.give("dealer", lot{bucket: "monthly", rank: 1, credits: 70, flags: whole})
	v := b.do(http.MethodGet, b.data+"/credits/balance", key, "").json(t)
	require.Equal(t, map[string]any{"at": stamp(next), "credits": 70.0}, v["next_reset"])
}

// What was negotiated for the middle of a month is no reset: that is when the month ends, and what begins there.
func TestMoreInTheMiddleOfACycleIsNoReset(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("3d-studio"))
	key := b.account("maker", 0)
	began := time.Now().Truncate(time.Second)
	b.house.agree("maker", policy.History{{At: began, Plan: "starter", Slots: 1, Anchor: began}})
	ends := began.AddDate(0, 1, 0)
	if ends.Day() != began.Day() { // months end
		ends = ends.AddDate(0, 0, -ends.Day())
	}
	left := ends.Sub(began)
	b.give(
		"maker", lot{bucket: "subscription", credits: 500, end: left},
		lot{bucket: "subscription", credits: 100, begins: 5 * day, end: left},
		lot{bucket: "subscription", credits: 600, begins: left, end: left + 28*day},
	)
	v := b.do(http.MethodGet, b.data+"/credits/balance", key, "").json(t)
	require.InDelta(t, 600, v["next_reset"].(map[string]any)["credits"], 0)
	at, err := time.Parse(time.RFC3339, v["next_reset_at"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, ends, at, 10*time.Second)
	packs := b.do(http.MethodGet, b.data+"/credits/packs", key, "").json(t)["packs"].([]any)
	require.Equal(t, v["next_reset_at"], packs[0].(map[string]any)["expires_at"], "packs last until the renewal")
}
