package gateway_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/policy"
)

// rules is a policy with some operations, written name, route, price.
func rules(tb testing.TB, operations ...string) *policy.Policy {
	tb.Helper()
	text := []byte("name: studio\nbuckets: [purchased]\noperations:\n")
	for o := range slices.Chunk(operations, 3) {
		text = fmt.Appendf(text, "  %s: {match: POST %s, credits: %s}\n", o[0], o[1], o[2])
	}
	p, err := policy.Parse("studio.yaml", text)
	require.NoError(tb, err)
	return p
}

// files are what the next reload finds, for product studio.
func (b *bundle) files(p *policy.Policy) {
	b.house.mu.Lock()
	defer b.house.mu.Unlock()
	b.house.files, b.house.mistake = map[string]*policy.Policy{"studio": p}, nil
}

func (b *bundle) reload() *reply { return b.control("POST", "/v1/policy/reload", "") }

func inForce(p *policy.Policy) func(*gateway.Options) {
	return func(o *gateway.Options) { o.Policies = policy.NewCatalog(map[string]*policy.Policy{"studio": p}) }
}

// What is in flight while the policy is replaced is settled at the price it was made with; the next request pays the
// new one.
func TestReloadWhileARequestIsInFlight(t *testing.T) {
	t.Parallel()
	old := rules(t, "draw", "/draw", "3")
	b := setup(t, inForce(old))
	key := b.account("acme", 100*meter.Credit)
	arrived, finish := make(chan struct{}, 1), make(chan struct{})
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Request.Header.Peek("X-Wait")) != "" {
			arrived <- struct{}{}
			<-finish
		}
		ctx.SetBodyString(`{"ok":true}`)
	})
	slow := make(chan *reply, 1)
	go func() {
		r, _ := b.try("POST", b.data+"/draw", key, "", "X-Wait", "1", "Idempotency-Key", "once")
		slow <- r
	}()
	select {
	case <-arrived:
	case r := <-slow:
		require.FailNow(t, "the request did not reach the backend", "%v", r)
	}
	fresh := rules(t, "draw", "/draw", "5", "paint", "/paint", "7")
	b.files(fresh)
	r := b.reload()
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.Equal(t, fresh.Version(), r.json(t)["policies"].([]any)[0].(map[string]any)["version"])
	require.Equal(t, b.control("GET", "/v1/policy", "").json(t)["policies"], r.json(t)["policies"])
	require.Equal(t, "5", b.post("/draw", key, "").Header.Get("X-Credits-Charged"))
	require.Equal(t, "7", b.post("/paint", key, "").Header.Get("X-Credits-Charged"))
	close(finish)
	first := <-slow
	require.NotNil(t, first)
	require.Equal(t, 200, first.StatusCode, "%s", first.body)
	require.Equal(t, "3", first.Header.Get("X-Credits-Charged"))
	again := b.post("/draw", key, "", "X-Wait", "1", "Idempotency-Key", "once")
	require.Equal(t, 200, again.StatusCode, "%s", again.body)
	require.Equal(t, "3", again.Header.Get("X-Credits-Charged"), "replayed, not priced anew")
	require.Equal(t, "true", again.Header.Get("Idempotent-Replayed"))
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{85_000, 0}, [2]meter.Credits{available, held})
	require.Equal(t, map[string]int{old.Version(): 1, fresh.Version(): 2}, b.versions())
}

// versions counts the commits in the ledger by the policy's version.
func (b *bundle) versions() map[string]int {
	b.t.Helper()
	out := map[string]int{}
	for p := range uint16(2) {
		records, _, err := b.engine.Ledger().Read(b.t.Context(), p, meter.Position{}, 1000, 0)
		require.NoError(b.t, err)
		for _, rec := range records.List {
			for _, e := range rec.Entries {
				if e.Kind == meter.KindCommit {
					out[e.Note.PolicyVersion]++
				}
			}
		}
	}
	return out
}

// A mistake keeps what is in force, and is told with every place.
func TestReloadRefusesMistakes(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	b := setup(t, inForce(rules(t, "draw", "/draw", "3")), func(o *gateway.Options) { o.Log = zerolog.New(&log) })
	key := b.account("acme", 100*meter.Credit)
	_, one := policy.Parse("one.yaml", []byte("name: a b\nbuckets: [x]\noperations:\n  d: {match: POST /d, credits: TBD}\n"))
	_, two := policy.Parse("two.yaml", []byte("name: two\nbuckets: []\noperations:\n  d: {match: POST /d, credits: 1}\n"))
	b.house.mistake = errors.Join(one, two, errors.New("three.yaml: name: two is the product of two.yaml already"))
	r := b.reload()
	require.Equal(t, 422, r.StatusCode, "%s", r.body)
	p := r.json(t)
	require.Equal(t, "invalid-policy", p["code"])
	var places []string
	for _, m := range p["problems"].([]any) {
		m := m.(map[string]any)
		places = append(places, fmt.Sprintf("%v:%v:%v %v", m["file"], m["line"], m["column"], m["path"]))
		require.NotEmpty(t, m["detail"])
	}
	require.Equal(t, []string{
		"one.yaml:1:7 name", "one.yaml:4:32 operations.d.credits", "two.yaml:2:10 buckets", ":0:0 ",
	}, places)
	require.Contains(t, log.String(), "one.yaml:4:32")
	require.Equal(t, "3", b.post("/draw", key, "").Header.Get("X-Credits-Charged"), "the old one stays")
	require.InDelta(t, 1, b.figure(t, `creditgate_policy_reloads_total{result="refused"}`), 0)
	b.files(rules(t, "draw", "/draw", "4"))
	require.Equal(t, 200, b.reload().StatusCode)
	require.Equal(t, "4", b.post("/draw", key, "").Header.Get("X-Credits-Charged"))
	require.InDelta(t, 1, b.figure(t, `creditgate_policy_reloads_total{result="loaded"}`), 0)
	require.InDelta(t, float64(time.Now().Unix()), b.figure(t, `creditgate_policy_loaded_timestamp_seconds`), 60)
	require.Equal(t, 400, b.control("POST", "/v1/policy/reload", `{"force":true}`).StatusCode)
}

// figure is one line of /metrics, 0 if it is not there.
func (b *bundle) figure(t *testing.T, series string) (value float64) {
	t.Helper()
	for line := range strings.Lines(string(b.do(http.MethodGet, b.admin+"/metrics", "", "").body)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			_, err := fmt.Sscan(rest, &value)
			require.NoError(t, err)
		}
	}
	return value
}

// Products that have accounts and plans that have subscribers cannot vanish.
func TestReloadLeavesNobodyBehind(t *testing.T) {
	t.Parallel()
	b := setup(t, seed("ai-background-studio"))
	full := func(change ...func(*policy.Policy)) *policy.Policy {
		var o gateway.Options
		seed("ai-background-studio", change...)(&o)
		return o.Policies.Policy("studio")
	}
	b.house.files = map[string]*policy.Policy{"other": rules(t, "draw", "/draw", "3")}
	b.house.uses = []gateway.PolicyUse{{Product: "studio", Accounts: 1200}, {Product: "studio", Plan: "basic", Accounts: 7}}
	r := b.reload()
	require.Equal(t, 422, r.StatusCode)
	require.Contains(t, string(r.body), "1200 accounts")
	require.Len(t, r.json(t)["problems"], 1)

	b.files(full(func(p *policy.Policy) { p.Plans = p.Plans[1:] }))
	gone := full().Plans[0].Name
	b.house.uses = []gateway.PolicyUse{{Product: "studio", Accounts: 1200}, {Product: "studio", Plan: gone, Accounts: 7}}
	r = b.reload()
	require.Equal(t, 422, r.StatusCode)
	require.Contains(t, string(r.body), "plans."+gone)
	require.Contains(t, string(r.body), "7 accounts")
	b.house.uses = b.house.uses[:1]
	require.Equal(t, 200, b.reload().StatusCode, "nobody is on that plan")

	b.house.files = map[string]*policy.Policy{"other": rules(t, "draw", "/draw", "3")}
	b.house.fail(errors.New("connection refused"))
	require.Equal(t, 422, b.reload().StatusCode, "who cannot be counted may be there")
	b.house.fail(nil)
	b.house.files = nil
	require.Equal(t, 422, b.reload().StatusCode, "no policy at all")
	b.house.files, b.house.uses = map[string]*policy.Policy{"other": rules(t, "draw", "/draw", "3")}, nil
	require.Equal(t, 200, b.reload().StatusCode)
}

// Figures follow: operations that are gone keep theirs for one more reload, then they are dropped.
func TestReloadMovesFigures(t *testing.T) {
	t.Parallel()
	b := setup(t, inForce(rules(t, "a", "/a", "1")))
	key := b.account("acme", 1000*meter.Credit)
	series := func(op string) string { return `creditgate_requests_total{operation="` + op + `",outcome="committed"}` }
	arrived, finish := make(chan struct{}, 1), make(chan struct{})
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Request.Header.Peek("X-Wait")) != "" {
			arrived <- struct{}{}
			<-finish
		}
		ctx.SetBodyString(`{"ok":true}`)
	})
	require.Equal(t, 200, b.post("/a", key, "").StatusCode)
	slow := make(chan *reply, 1)
	go func() {
		r, _ := b.try("POST", b.data+"/a", key, "", "X-Wait", "1")
		slow <- r
	}()
	select {
	case <-arrived:
	case r := <-slow:
		require.FailNow(t, "the request did not reach the backend", "%v", r)
	}
	b.files(rules(t, "b", "/b", "1"))
	require.Equal(t, 200, b.reload().StatusCode)
	require.Equal(t, 200, b.post("/b", key, "").StatusCode)
	require.InDelta(t, 1, b.figure(t, series("a")), 0)
	require.InDelta(t, 1, b.figure(t, series("b")), 0)
	b.files(rules(t, "c", "/c", "1"))
	require.Equal(t, 200, b.reload().StatusCode)
	text := string(b.do(http.MethodGet, b.admin+"/metrics", "", "").body)
	require.NotContains(t, text, `operation="a"`)
	require.Contains(t, text, `operation="b"`)
	close(finish)
	require.Equal(t, 200, (<-slow).StatusCode)
	require.Eventually(t, func() bool { return b.figure(t, series("")) == 1 }, 5*time.Second, 5*time.Millisecond)
	require.NotContains(t, string(b.do(http.MethodGet, b.admin+"/metrics", "", "").body), `operation="a"`)
}

// Under load nothing is dropped, and each request pays one of the two prices, whole.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	prices := []*policy.Policy{rules(t, "draw", "/draw", "1"), rules(t, "draw", "/draw", "2", "more", "/more", "1")}
	b := setup(t, inForce(prices[0]))
	key := b.account("acme", 1e6*meter.Credit)
	b.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 16
	var spent, bad, served atomic.Int64
	var stop atomic.Bool
	var work sync.WaitGroup
	for range 16 {
		work.Go(func() {
			for !stop.Load() {
				r, err := b.try("POST", b.data+"/draw", key, "")
				if err != nil {
					bad.Add(1)
					continue
				}
				charged, err := meter.ParseCredits(r.Header.Get("X-Credits-Charged"))
				if err != nil || r.StatusCode != http.StatusOK || (charged != meter.Credit && charged != 2*meter.Credit) {
					bad.Add(1)
				}
				spent.Add(int64(charged))
				served.Add(1)
			}
		})
	}
	for i := range 50 {
		b.files(prices[(i+1)%2])
		require.Equal(t, 200, b.reload().StatusCode)
		next := served.Load() + 20
		require.Eventually(t, func() bool { return served.Load() >= next || bad.Load() > 0 }, 10*time.Second, time.Millisecond)
	}
	stop.Store(true)
	work.Wait()
	require.Zero(t, bad.Load())
	available, held := b.wallet("acme")
	require.Equal(t, meter.Credits(1e9), available+meter.Credits(spent.Load()))
	require.Zero(t, held)
	require.Len(t, b.versions(), 2)
}

// A bucket with credit keeps its place: what was granted keeps its own, and one bucket would be drawn at two.
func TestReloadKeepsTheDrainOrder(t *testing.T) {
	t.Parallel()
	order := func(buckets string) *policy.Policy {
		p, err := policy.Parse("studio.yaml", []byte("name: studio\nbuckets: ["+buckets+"]\noperations:\n"+
			"  draw: {match: POST /draw, credits: 1}\n"))
		require.NoError(t, err)
		return p
	}
	b := setup(t, inForce(order("promo, monthly, purchased")))
	b.house.holding = []gateway.BucketUse{
		{Product: "studio", Bucket: "monthly", Rank: 1, Accounts: 7}, {Product: "studio", Bucket: "purchased", Rank: 2, Accounts: 1},
	}
	for buckets, says := range map[string][]string{
		"monthly, promo, purchased":        {`"monthly" has place 1, and credit of 7 accounts in it was granted at place 2`},
		"promo, extra, monthly, purchased": {`"monthly" has place 3`, `"purchased" has place 4, and credit of 1 account in it`},
		"promo, monthly":                   {`"purchased" is gone`},
	} {
		b.files(order(buckets))
		r := b.reload()
		require.Equal(t, 422, r.StatusCode, buckets)
		for _, s := range append(says, "keep the old order and append new buckets") {
			require.Contains(t, r.json(t)["detail"], s)
		}
		require.Contains(t, string(b.control("GET", "/v1/policy", "").body), `["promo","monthly","purchased"]`)
	}
	for _, buckets := range []string{"promo, monthly, purchased, extra", "other, monthly, purchased"} { // promo holds nothing
		b.files(order(buckets))
		require.Equal(t, 200, b.reload().StatusCode, buckets)
	}
}
