package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/policy"
)

// A negotiated price counts from its first moment to its last, by the request's arrival; the entry says so.
func TestNegotiatedPrice(t *testing.T) {
	t.Parallel()
	clock := new(meter.Clock)
	b := setup(t, func(o *gateway.Options) { o.Clock = clock })
	key := b.account("acme", 100*meter.Credit)
	now := time.Now()
	b.house.agree(
		"acme", nil,
		policy.UnitPrice{Operation: "plain", Credits: 1500, From: now.Add(-time.Hour), Until: now.Add(time.Hour), Reason: "negotiated price a"},
		policy.UnitPrice{Operation: "plain", Credits: 250, From: now.Add(2 * time.Hour), Reason: "negotiated price b"},
		policy.UnitPrice{Operation: "apply", Credits: 10, From: now.Add(-time.Hour), Reason: "negotiated price c"},
		policy.UnitPrice{Operation: "revert", Credits: 10, From: now.Add(-time.Hour), Reason: "negotiated price d"},
	)
	charged := func(path, body string) string {
		t.Helper()
		r := b.post(path, key, body)
		require.Equal(t, 200, r.StatusCode, "%s", r.body)
		require.Equal(t, r.Header.Get("X-Credits-Reserved"), r.Header.Get("X-Credits-Charged"))
		return r.Header.Get("X-Credits-Charged")
	}
	require.Equal(t, "1.5", charged("/plain", ""))
	require.InDelta(t, 1.5, b.post("/credits/quote/plain", key, "").json(t)["credits"], 0)
	require.Equal(t, "1", charged("/upscale/1", ""), "another operation")
	require.Empty(t, charged("/studio/revert", ""), "what is free for everybody stays free")
	clock.Set(time.Hour + time.Minute)
	require.Equal(t, "2", charged("/plain", ""), "between the two the policy's price counts")
	clock.Set(3 * time.Hour)
	require.Equal(t, "0.25", charged("/plain", ""))
	b.backend.answer(200, `{"results":[{"status":"ok"},{"status":"failed"}]}`)
	r := b.post("/studio/apply", key, twoPhotos)
	require.Equal(t, "0.02", r.Header.Get("X-Credits-Reserved"))
	require.Equal(t, "0.01", r.Header.Get("X-Credits-Charged"), "one of two")
	require.Equal(t, 400, b.post("/studio/apply", key, `{"photos":[`+manyOf(51)+`]}`).StatusCode, "the maximum stays")

	reasons := map[string]int{}
	for p := range uint16(2) {
		records, _, err := b.engine.Ledger().Read(t.Context(), p, meter.Position{}, 100, 0)
		require.NoError(t, err)
		for _, rec := range records.List {
			for _, e := range rec.Entries {
				if e.Kind == meter.KindCommit {
					reasons[e.Note.Reason]++
					require.NotEmpty(t, e.Note.PolicyVersion)
				}
			}
		}
	}
	require.Equal(t, map[string]int{
		"": 2, "negotiated price a": 1, "negotiated price b": 1, "negotiated price c": 1,
	}, reasons)
}

func manyOf(n int) string {
	return "1" + strings.Repeat(",1", n-1)
}

// A price negotiated as 0 makes a request free for the account.
func TestNegotiatedFree(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 0)
	b.house.agree("acme", nil, policy.UnitPrice{Operation: "plain", From: time.Now().Add(-time.Hour)})
	r := b.post("/plain", key, "")
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.Empty(t, r.Header.Get("X-Credits-Reservation"))
	require.Equal(t, 402, b.post("/upscale/1", key, "").StatusCode)
}

// A change made through this gateway counts with the next request, not after the TTL.
func TestOwnChangesAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	require.Equal(t, 200, b.post("/studio/revert", key, "").StatusCode)
	require.Equal(t, 204, b.control("DELETE", "/v1/accounts/acme/keys/k-acme", "").StatusCode)
	require.Equal(t, 401, b.post("/studio/revert", key, "").StatusCode)
}

func TestPriceOfIdentity(t *testing.T) {
	t.Parallel()
	now := time.Now()
	who := gateway.Identity{Prices: []policy.UnitPrice{
		{Operation: "a", Credits: 1, From: now},
		{Operation: "b", Credits: 2, From: now, Until: now.Add(time.Second)},
		{Operation: "a", Credits: 3, From: now.Add(time.Second)},
	}}
	require.Nil(t, who.Price("a", now.Add(-1)))
	require.Equal(t, meter.Credits(1), who.Price("a", now).Credits)
	require.Equal(t, meter.Credits(3), who.Price("a", now.Add(time.Second)).Credits, "the last one counts")
	require.NotNil(t, who.Price("b", now.Add(time.Second-1)))
	require.Nil(t, who.Price("b", now.Add(time.Second)))
	require.Nil(t, who.Price("c", now))
}

// A day that a zone skipped has nothing in it, alone or beside others.
func TestUsageOfASkippedDay(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) {
		p, err := policy.Parse("studio.yaml", []byte(strings.Replace(testPolicy, "Europe/Berlin", "Pacific/Apia", 1)))
		require.NoError(t, err)
		o.Policies = policy.NewCatalog(map[string]*policy.Policy{"studio": p})
	})
	key := b.account("acme", 0)
	ask := func(query string) *reply { return b.do(http.MethodGet, b.data+"/credits/usage"+query, key, "") }
	const empty = `{"account":"acme","by":"%s","from":"2011-12-30","to":"2011-12-30","timezone":"Pacific/Apia","rows":[%s],
		"more":false,"total":{"credits":0,"units":0,"charges":0}}`
	r := ask("?from=2011-12-30&to=2011-12-30")
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.JSONEq(t, fmt.Sprintf(empty, "day", `{"day":"2011-12-30","credits":0,"units":0,"charges":0}`), string(r.body))
	require.JSONEq(t, fmt.Sprintf(empty, "operation", ""), string(ask("?by=operation&from=2011-12-30&to=2011-12-30").body))
	require.Empty(t, b.house.asked.Bounds, "there is nothing to ask for")
	b.house.usage = gateway.Usage{Rows: []gateway.UsageRow{{Span: 1, Credits: 1500, Units: 3, Charges: 2}}}
	require.JSONEq(t, `[{"day":"2011-12-29","credits":0,"units":0,"charges":0},
		{"day":"2011-12-30","credits":0,"units":0,"charges":0},{"day":"2011-12-31","credits":1.5,"units":3,"charges":2}]`,
		rowsOf(t, ask("?from=2011-12-29&to=2011-12-31")))
}

func TestUsageView(t *testing.T) {
	t.Parallel()
	clock := new(meter.Clock)
	b := setup(t, func(o *gateway.Options) { o.Clock = clock })
	key := b.account("acme", 0)
	ask := func(query string) *reply { return b.do(http.MethodGet, b.data+"/credits/usage"+query, key, "") }
	b.house.usage = gateway.Usage{
		Rows:  []gateway.UsageRow{{Span: 2, Credits: 1500, Units: 3, Charges: 2}},
		Total: gateway.UsageRow{Credits: 1500, Units: 3, Charges: 2},
	}
	r := ask("?by=day&from=2026-03-28&to=2026-03-30")
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.JSONEq(t, `{"account":"acme","by":"day","from":"2026-03-28","to":"2026-03-30","timezone":"Europe/Berlin","rows":[
		{"day":"2026-03-28","credits":0,"units":0,"charges":0},{"day":"2026-03-29","credits":0,"units":0,"charges":0},
		{"day":"2026-03-30","credits":1.5,"units":3,"charges":2}],"more":false,
		"total":{"credits":1.5,"units":3,"charges":2}}`, string(r.body))
	at := func(text string) time.Time {
		out, err := time.Parse(time.RFC3339, text)
		require.NoError(t, err)
		return out
	}
	want := []time.Time{
		at("2026-03-27T23:00:00Z"), at("2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z"), at("2026-03-30T22:00:00Z"),
	}
	require.Len(t, b.house.asked.Bounds, len(want), "the day on which clocks were put forward has 23 hours")
	for i := range want {
		require.True(t, want[i].Equal(b.house.asked.Bounds[i]), i)
	}

	b.house.usage = gateway.Usage{
		Rows: []gateway.UsageRow{{Name: "apply", Credits: 1500, Units: 3, Charges: 2}, {Credits: 1, Charges: 1}}, More: true,
	}
	require.JSONEq(t, `[{"operation":"apply","credits":1.5,"units":3,"charges":2},
		{"operation":"","credits":0.001,"units":0,"charges":1}]`, rowsOf(t, ask("?by=operation")))
	require.Contains(t, rowsOf(t, ask("?by=key")), `"key":"apply"`)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	clock.Set(1000 * day)
	v := ask("").json(t)
	require.Equal(t, clock.Now().In(berlin).Format(time.DateOnly), v["to"], "until today, which is the test clock's")
	require.Len(t, v["rows"], 30)
	for query, param := range map[string]string{
		"?by=month": "by", "?from=yesterday": "from", "?to=2026-02-30": "to", "?from=2026-03-02&to=2026-03-01": "from",
		"?from=2024-01-01&to=2025-01-01": "from", "?limit=3": "limit", "?by=day&by=key": "by", "?from=0001-01-01": "from",
		"?%zz": "",
	} {
		r := ask(query)
		require.Equal(t, 400, r.StatusCode, "%s: %s", query, r.body)
		p := r.json(t)
		require.NotEmpty(t, p["detail"])
		if param != "" {
			require.Equal(t, param, p["error"].(map[string]any)["param"], query)
		}
	}
	require.Equal(t, 200, ask("?from=2024-01-01&to=2024-12-31").StatusCode, "366 days")
	b.house.fail(errors.New("connection refused"))
	r = ask("")
	require.Equal(t, 503, r.StatusCode)
	require.Equal(t, "storage-unavailable", r.json(t)["code"])
}

func rowsOf(t *testing.T, r *reply) string {
	t.Helper()
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	var v struct {
		Rows json.RawMessage `json:"rows"`
	}
	require.NoError(t, json.Unmarshal(r.body, &v))
	return string(v.Rows)
}
