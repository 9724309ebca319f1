package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/persist/persisttest"
)

// wrong is a call that is refused. Its answer names what is wrong, where, and what would be right.
type wrong struct {
	route, body string // the route may have a query; "@" in both stands for an account that exists
	status      int
	code, param string
	says        string // parts of the detail, separated by |
}

// badInputs are wrong calls of every route of the control plane.
func badInputs() []wrong {
	const (
		account       = "/v1/accounts/@"
		grants        = account + "/grants"
		grant         = grants + "/00000000-0000-7000-8000-000000000000"
		revocations   = account + "/revocations"
		subscription  = account + "/subscription"
		override      = account + "/overrides/o1"
		purchases     = account + "/purchases"
		reservation   = "/v1/reservations/1-00-00000000-0000-7000-8000-000000000000"
		letters       = "must match [A-Za-z0-9._-]{1,64}: letters, digits, dot, underscore and hyphen"
		aGrant        = `{"bucket":"promo","credits":1,"external_ref":"x"`
		invalid       = "invalid-request"
		day           = " 2026-12-01 is a day, and a time with its zone is needed; write 2026-12-01T00:00:00Z|+01:00"
		notFound      = "not-found"
		unknownFields = `{"colour":1}`
	)
	return []wrong{
		{"PUT /v1/accounts/a%20b", `{}`, 400, invalid, "account", `account "a%20b" ` + letters},
		{"PUT /v1/accounts/", `{}`, 400, invalid, "account", "account is empty"},
		{"PUT " + account, unknownFields, 400, invalid, "colour", `"colour" is not a field of this route; it takes product, suspended`},
		{"PUT " + account, `{"suspended":"yes"}`, 400, invalid, "suspended", `true or false; "yes" is not`},
		{"PUT " + account, `{"product":"nope"}`, 400, invalid, "product", `"nope"|there are policies of dev`},
		{"PUT " + account, `{"suspended":true,"suspended":false}`, 400, invalid, "suspended", "twice"},
		{"PUT " + account, `[1]`, 400, invalid, "", `must be one JSON object|"[1]"`},
		{"PUT " + account, `{"product":`, 400, invalid, "", "not valid JSON at byte|ends too early"},
		{"PUT " + account, `{"product" "dev"}`, 400, invalid, "", "not valid JSON at byte"},
		{"PUT " + account, `{}{}`, 400, invalid, "", "something after its JSON object"},
		{"POST " + account, `{}`, 404, notFound, "", "does not take POST; it takes PUT and GET"},
		{"GET /v1/accounts/nobody", ``, 404, notFound, "", "there is no such account"},
		{"GET /v1/accounts/nobody/balance", ``, 404, notFound, "", "nobody"},
		{"GET /v1/accounts/nobody/entries", ``, 404, notFound, "", "there is no such account"},
		{"GET " + account + "/entries?limit=1.5", ``, 400, invalid, "limit", "1 to 500"},
		{"GET " + account + "/entries?cursor=x", ``, 400, invalid, "cursor", "next_cursor"},
		{"POST " + account + "/keys", `{"external_ref":"a b"}`, 400, invalid, "external_ref", `"a b" ` + letters},
		{"DELETE " + account + "/keys/none", ``, 404, notFound, "", "no such API key"},
		{"DELETE " + account + "/keys/a:b", ``, 400, invalid, "key", letters},

		{
			"POST " + grants, aGrant + `,"colour":1}`, 400, invalid, "colour",
			"it takes bucket, credits, effective_at, expires_at, external_ref, reason",
		},
		{"POST " + grants, `{"credits":1,"external_ref":"x"}`, 400, invalid, "bucket", "bucket is required|promo, monthly, purchased"},
		{"POST " + grants, `{"bucket":"gold","credits":1,"external_ref":"x"}`, 400, invalid, "bucket", `"gold"|promo, monthly, purchased`},
		{"POST " + grants, `{"bucket":"promo","external_ref":"x"}`, 400, invalid, "credits", "above 0, such as 3 or 0.25"},
		{"POST " + grants, `{"bucket":"promo","credits":0.0001,"external_ref":"x"}`, 400, invalid, "credits", "at most three decimals|0.0001 is not"},
		{"POST " + grants, `{"bucket":"promo","credits":"1","external_ref":"x"}`, 400, invalid, "credits", `without quotes|"1" is not`},
		{"POST " + grants, `{"bucket":7,"credits":1,"external_ref":"x"}`, 400, invalid, "bucket", "a text in double quotes|7 is not"},
		{"POST " + grants, `{"bucket":"promo","credits":1}`, 400, invalid, "external_ref", "external_ref is required|Idempotency-Key|" + letters},
		{"POST " + grants, aGrant + `,"expires_at":"2026-12-01"}`, 400, invalid, "expires_at", "expires_at" + day},
		{"POST " + grants, aGrant + `,"expires_at":"2026-12-01T10:00:00"}`, 400, invalid, "expires_at", "has no zone; write 2026-12-01T10:00:00Z"},
		{"POST " + grants, aGrant + `,"effective_at":1764547200}`, 400, invalid, "effective_at", `in quotes, such as "2026-12-01T00:00:00Z"`},
		{"POST " + grants, aGrant + `,"effective_at":"0001-01-01T00:00:00Z"}`, 400, invalid, "effective_at", "before 1970"},
		{"POST " + grants, aGrant + `,"expires_at":"9999-01-01T00:00:00Z"}`, 400, invalid, "expires_at", "before 6429"},
		{"POST " + grants, aGrant + `,"expires_at":"2020-01-01T00:00:00Z"}`, 400, invalid, "expires_at", "later than effective_at, which is now"},
		{"POST " + grants, aGrant + `,"reason":"` + strings.Repeat("r", 121) + `"}`, 400, invalid, "reason", "at most 120"},
		{"PATCH " + grants + "/x", `{"expires_at":null,"external_ref":"m"}`, 404, notFound, "", `"x" is not the id of a grant|UUID such as`},
		{"PATCH " + grant, `{"expires_at":null}`, 400, invalid, "external_ref", "external_ref is required"},
		{"PATCH " + grant, `{"expires_at":null,"external_ref":"m"}`, 404, notFound, "", "no such grant"},
		{"PATCH " + grant, `{"external_ref":"m"}`, 400, invalid, "expires_at", "null for never"},
		{"PATCH " + grant, `{"expires_at":"2026-12-01","external_ref":"m"}`, 400, invalid, "expires_at", day},
		{"POST " + revocations, `{"external_ref":"r","reason":"x"}`, 400, invalid, "grant_id", "one of grant_id and purchase_ref"},
		{"POST " + revocations, `{"grant_id":"x","external_ref":"r","reason":"x"}`, 400, invalid, "grant_id", "not the id of a grant"},
		{"POST " + revocations, `{"purchase_ref":"a b","external_ref":"r","reason":"x"}`, 400, invalid, "purchase_ref", letters},
		{"POST " + revocations, `{"purchase_ref":"p","external_ref":"r"}`, 400, invalid, "reason", "reason is required"},
		{"POST " + revocations, `{"purchase_ref":"p","external_ref":"r","reason":"x"}`, 404, notFound, "", "no such"},
		{"POST " + revocations + "/none/reversal", `{"external_ref":"v"}`, 404, notFound, "", "no such revocation"},
		{"POST " + revocations + "/none/reversal", `{}`, 400, invalid, "external_ref", "external_ref is required"},

		{"PUT " + subscription, `{}`, 400, invalid, "plan", "plan is required; dev has premium, professional_plus"},
		{"PUT " + subscription, `{"plan":"gold"}`, 400, invalid, "plan", `"gold" is not known; dev has premium`},
		{"PUT " + subscription, `{"plan":"professional"}`, 400, invalid, "slots", "slots is required"},
		{"PUT " + subscription, `{"plan":"professional","slots":1.5}`, 400, invalid, "slots", "a whole number|1.5 is not"},
		{"PUT " + subscription, `{"plan":"professional","slots":-1}`, 400, invalid, "slots", "from 0 to 4294967295; -1 is not"},
		{"PUT " + subscription, `{"plan":"professional","slots":2,"period":"weekly"}`, 400, invalid, "period", "monthly or yearly"},
		{"PUT " + subscription, `{"plan":"professional","slots":2,"starts_at":"2026-12-01"}`, 400, invalid, "starts_at", day},
		{"PUT " + subscription, `{"plan":"professional","slots":2,"anchor_at":"tomorrow"}`, 400, invalid, "anchor_at", "tomorrow is not"},
		{"GET " + subscription, ``, 404, notFound, "", "no such subscription"},
		{"DELETE " + subscription + "?at=soon", ``, 400, invalid, "at", "period_end|now"},
		{"GET /v1/accounts/nobody/overrides", ``, 404, notFound, "", "there is no such account"},
		{"PUT " + override, `{}`, 400, invalid, "kind", "kind is required; it is contingent, fair_use or unit_credits"},
		{"PUT " + override, `{"kind":"price","credits":1}`, 400, invalid, "kind", `"price" is not known; it is contingent`},
		{"PUT " + override, `{"kind":"contingent"}`, 400, invalid, "credits", "number from 0"},
		{"PUT " + override, `{"kind":"contingent","credits":1}`, 400, invalid, "target", "target is required|promo, monthly, purchased"},
		{"PUT " + override, `{"kind":"contingent","credits":1,"target":"monthly","until":"2026-12-01"}`, 400, invalid, "until", day},
		{"DELETE " + override, ``, 404, notFound, "", "no such override"},

		{"POST " + purchases, `{"external_ref":"p"}`, 400, invalid, "pack", "pack is required|may buy"},
		{"POST " + purchases, `{"external_ref":"p","pack":"gold"}`, 400, invalid, "pack", `"gold" is not known|may buy`},
		{"POST " + purchases, `{"external_ref":"p","pack":"plus-50","quantity":2.5}`, 400, invalid, "quantity", "a whole number|2.5 is not"},
		{"POST " + purchases, `{"external_ref":"p","pack":"plus-50","quantity":0}`, 400, invalid, "quantity", "from 1"},
		{"POST " + purchases, `{"external_ref":"p","pack":"plus-50","purchased_at":"2026-12-01"}`, 400, invalid, "purchased_at", day},
		{"POST " + purchases, `{"external_ref":"p","pack":"plus-50","net_minor":45.5}`, 400, invalid, "net_minor", "a whole number"},
		{"POST " + purchases, `{"external_ref":"p","pack":"plus-50","invoice_ref":"ü"}`, 400, invalid, "invoice_ref", "printable ASCII"},
		{"POST " + purchases, `{"external_ref":"p","pack":"plus-50"}`, 403, "subscription-required", "pack", "active subscription"},
		{"GET /v1/purchases/none", ``, 404, notFound, "", "no such purchase"},
		{"POST /v1/purchases/none/payment", `{"external_ref":"y"}`, 400, invalid, "status", "status is required; it is paid or overdue"},
		{"POST /v1/purchases/none/payment", `{"external_ref":"y","status":"late"}`, 400, invalid, "status", `"late" is not known; it is paid or overdue`},
		{"POST /v1/purchases/none/payment", `{"external_ref":"y","status":"paid"}`, 404, notFound, "", "no such purchase"},

		{"POST /v1/reservations", `{"credits":1}`, 400, invalid, "account", "account is empty"},
		{"POST /v1/reservations", `{"account":"@","credits":-1}`, 400, invalid, "credits", "above 0"},
		{"POST /v1/reservations", `{"account":"@","credits":1,"operation":"a b"}`, 400, invalid, "operation", letters},
		{"POST /v1/reservations", `{"account":"@","credits":1,"lease_seconds":1.5}`, 400, invalid, "lease_seconds", "1.5 is not"},
		{"POST /v1/reservations", `{"account":"@","credits":1,"lease_seconds":0}`, 400, invalid, "lease_seconds", "between 1 and 86400"},
		{"POST /v1/reservations", `{"account":"@","credits":1}`, 402, "insufficient-credits", "", "1 credits are needed"},
		{"GET /v1/reservations/x", ``, 404, notFound, "", `"x" is not the id of a reservation, which looks like`},
		{"POST " + reservation + "/commit", `{"credits":"all"}`, 400, invalid, "credits", `"all" is not`},
		{"POST " + reservation + "/commit", ``, 404, notFound, "", "there is no reservation"},
		{"POST " + reservation + "/release", unknownFields, 400, invalid, "colour", "it takes none"},
		{"POST " + reservation + "/extend", ``, 400, invalid, "lease_seconds", "between 1 and 86400"},
		{"GET /v1/policy/x", ``, 404, notFound, "", "there is no GET /v1/policy/x"},
		{"DELETE /v1/policy", ``, 404, notFound, "", "it takes GET"},
		{"POST /v1/policy/reload", unknownFields, 400, invalid, "colour", "it takes none"},
		{"GET /v1/events?after=x", ``, 400, invalid, "after", "id of an event, or 0"},
		{"GET /v1/events?wait=1h", ``, 400, invalid, "wait", "whole seconds"},
		{"GET /v1/events?account=a+b", ``, 400, invalid, "account", letters},
		{"GET /v1/events?type=x", ``, 400, invalid, "type", `"x" is no type of event; there are `},
		{"GET /v1/webhooks/none", ``, 404, notFound, "", "no such webhook"},
		{"PUT /v1/webhooks/w", `{}`, 400, invalid, "url", "url is required"},
		{"PUT /v1/webhooks/w", `{"url":"example.com/hook"}`, 400, invalid, "url", "must begin with https://, such as"},
		{"PUT /v1/webhooks/w", `{"url":"https://example.com/h","types":"x"}`, 400, invalid, "types", `a list of texts, such as ["a", "b"]`},
		{"PUT /v1/webhooks/w", `{"url":"https://example.com/h","types":["x"]}`, 400, invalid, "types", "there are "},
		{"PUT /v1/webhooks/w", `{"url":"https://example.com/h","secret":"x"}`, 400, invalid, "secret", "whsec_"},
		{"DELETE /v1/webhooks/a:b", ``, 400, invalid, "webhook", letters},
		{"POST /v1/webhooks/none/redeliver", `{}`, 400, invalid, "after", "after is required"},
		{"POST /v1/webhooks/none/redeliver", `{"after":0}`, 404, notFound, "", "no such webhook"},
		{"GET /v1/clock", ``, 404, notFound, "", "CREDITGATE_TEST_CLOCK"},
		{"PUT /v1/clock", `{}`, 404, notFound, "", "CREDITGATE_TEST_CLOCK"},
	}
}

// Every wrong call is answered with its code, the field at fault and how it would be right.
func TestBadInputIsExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	g.account(t, "acme")
	for _, c := range badInputs() {
		method, path, _ := strings.Cut(strings.ReplaceAll(c.route, "@", "acme"), " ")
		status, answer := g.ask(t, method, path, strings.ReplaceAll(c.body, "@", "acme"))
		explained(t, c, status, answer)
	}
	// Routes whose every call is right: they take nothing.
	whole := []string{"GET /v1/policy", "GET /v1/webhooks", "GET /livez", "GET /readyz", "GET /metrics"}
	for _, route := range controlRoutes(t) {
		pattern := regexp.MustCompile(`^` + regexp.MustCompile(`\{\w+\}`).ReplaceAllString(route, `[^/]*`) + `$`)
		require.True(t, slices.Contains(whole, route) || slices.ContainsFunc(badInputs(), func(c wrong) bool {
			path, _, _ := strings.Cut(c.route, "?")
			return pattern.MatchString(path)
		}), "%s has no wrong call here", route)
	}
}

func explained(t *testing.T, c wrong, status int, answer string) {
	t.Helper()
	var p struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
		Error  struct {
			Param string `json:"param"`
		} `json:"error"`
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &p), "%s %s: %s", c.route, c.body, answer)
	require.Equal(t, []any{c.status, c.code, c.param}, []any{status, p.Code, p.Error.Param}, "%s %s: %s", c.route, c.body, answer)
	for part := range strings.SplitSeq(c.says, "|") {
		require.Contains(t, p.Detail, part, "%s %s", c.route, c.body)
	}
}

// controlRoutes are the routes of the control plane, as its table has them.
func controlRoutes(t *testing.T) (routes []string) {
	t.Helper()
	src, err := os.ReadFile("../../gateway/control.go")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`\{"([A-Z]+)", "(/[^"]+)", (?:true|false), `).FindAllStringSubmatch(string(src), -1) {
		routes = append(routes, m[1]+" "+m[2])
	}
	require.Greater(t, len(routes), 30)
	return routes
}

// Two causes of a 409 have two codes: a reference that was used for something else, and what the books say.
func TestConflictsAreToldApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	g := w.serve(t)
	g.account(t, "acme")
	var grant struct {
		ID string `json:"grant_id"`
	}
	made := g.must(t, "POST", "/v1/accounts/acme/grants", `{"bucket":"promo","credits":5,"external_ref":"g1"}`)
	require.NoError(t, json.Unmarshal([]byte(made), &grant))
	for _, c := range []wrong{
		{
			"POST /v1/accounts/acme/grants", `{"bucket":"promo","credits":6,"external_ref":"g1"}`, 409, "conflict", "external_ref",
			`"g1" was used before with another content`,
		},
		{
			"POST /v1/accounts/acme/revocations", `{"grant_id":"` + grant.ID + `","credits":6,"external_ref":"r1","reason":"x"}`, 409,
			"exceeds-grant", "credits", "at most 5 credits of grant " + grant.ID + " can still be revoked",
		},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		status, answer := g.ask(t, method, path, c.body)
		explained(t, c, status, answer)
	}
	require.Equal(t, http.StatusCreated, statusOf(g.ask(t, "POST", "/v1/accounts/acme/revocations",
		`{"grant_id":"`+grant.ID+`","external_ref":"r2","reason":"x"}`)))
	require.Eventually(t, func() bool {
		status, answer := g.ask(t, "PATCH", "/v1/accounts/acme/grants/"+grant.ID, `{"expires_at":null,"external_ref":"m1"}`)
		return status == http.StatusConflict && strings.Contains(answer, `"code":"grant-used-up"`)
	}, patience, 20*time.Millisecond)
	status, answer := g.ask(t, "PUT", "/v1/accounts/acme/subscription", `{"plan":"professional","slots":2}`)
	require.Equal(t, http.StatusCreated, status, answer)
}

func statusOf(status int, _ string) int { return status }

// What an API cannot read it does not call a change that was not recorded.
func TestReadsWithoutPostgresSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	server, database := persisttest.Private(t)
	w.database = database
	g := w.serve(t)
	g.account(t, "acme")
	require.NoError(t, server.Close())
	for _, path := range []string{
		"/v1/accounts/acme", "/v1/accounts/acme/entries", "/v1/accounts/acme/subscription", "/v1/accounts/acme/overrides",
		"/v1/purchases/p", "/v1/events", "/v1/webhooks", "/v1/webhooks/w",
	} {
		status, answer := g.ask(t, "GET", path, "")
		explained(t, wrong{"GET " + path, "", 503, "storage-unavailable", "", "cannot be read at the moment"}, status, answer)
		require.NotContains(t, answer, "recorded", path)
	}
	status, answer := g.ask(t, "PUT", "/v1/accounts/acme", `{}`)
	explained(t, wrong{"PUT", "", 503, "storage-unavailable", "", "whether the change was recorded is not known"}, status, answer)
}
