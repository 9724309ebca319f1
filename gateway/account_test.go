package gateway_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
)

func TestBalanceAndHistory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 0)
	b.grant("acme", "monthly", 1, 250)
	id := b.grant("acme", "promo", 0, 2*meter.Credit)
	r := b.do(http.MethodGet, b.data+"/credits/balance", key, "")
	require.Equal(t, 200, r.StatusCode)
	require.JSONEq(t, `{"account":"acme","available":2.25,"held":0,"debt":0,"plan":null,"next_reset_at":null,
		"next_reset":null,"buckets":[
		{"name":"promo","available":2,"held":0,"unlimited":false,"next_expiry":null},
		{"name":"monthly","available":0.25,"held":0,"unlimited":false,"next_expiry":null},
		{"name":"purchased","available":0,"held":0,"unlimited":false,"next_expiry":null}]}`, string(r.body))
	require.JSONEq(t, string(r.body), string(b.control("GET", "/v1/accounts/acme/balance", "").body))

	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	b.house.entries = []gateway.LedgerEntry{
		{
			EntryID: "1-00-2-0", Seq: 2, Kind: "commit", Operation: "apply", Units: 2, Reservation: "1-00-x", RequestID: "x",
			OccurredAt: at, Lines: []gateway.LedgerLine{{Bucket: "promo", Grant: id, Credits: -2000}},
		},
		{
			EntryID: "1-00-1-0", Seq: 1, Kind: "grant", OccurredAt: at,
			Lines: []gateway.LedgerLine{{Bucket: "promo", Grant: id, Credits: 2000}},
		},
	}
	r = b.do(http.MethodGet, b.data+"/credits/history?limit=1", key, "")
	require.Equal(t, 200, r.StatusCode)
	require.JSONEq(t, `{"entries":[{"entry_id":"1-00-2-0","seq":2,"kind":"commit","operation":"apply","units":2,
		"reservation_id":"1-00-x","request_id":"x","occurred_at":"2026-03-01T12:00:00.000Z",
		"lines":[{"bucket":"promo","grant_id":"`+id.String()+`","credits":-2}]}],"next_cursor":"2"}`, string(r.body))
	page := b.do(http.MethodGet, b.data+"/credits/history?limit=1&cursor=2", key, "").json(t)
	require.Nil(t, page["next_cursor"])
	require.Len(t, page["entries"], 1)
	for _, bad := range []string{"limit=0", "limit=x", "limit=501", "cursor=x", "cursor=0", "cursor=-1"} {
		require.Equal(t, 400, b.do(http.MethodGet, b.data+"/credits/history?"+bad, key, "").StatusCode, bad)
	}
	b.house.fail(errors.New("connection refused"))
	r = b.do(http.MethodGet, b.data+"/credits/history", key, "")
	require.Equal(t, 503, r.StatusCode)
	require.Equal(t, "storage-unavailable", r.json(t)["code"])
	require.Equal(t, 200, b.do(http.MethodGet, b.data+"/credits/balance", key, "").StatusCode, "without Postgres")
}

func TestQuoteHoldsNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 2*meter.Credit)
	promo := b.grant("acme", "promo", 0, meter.Credit)
	r := b.post("/credits/quote/studio/apply", key, twoPhotos)
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	q := r.json(t)
	require.Equal(t, "apply", q["operation"])
	require.InDelta(t, 2, q["units"], 0)
	require.InDelta(t, 2, q["credits"], 0)
	require.Equal(t, true, q["affordable"])
	draws := q["draws"].([]any)
	require.Len(t, draws, 2)
	require.Equal(t, map[string]any{"bucket": "promo", "grant_id": promo.String(), "credits": 1.0}, draws[0])
	q = b.post("/credits/quote/studio/apply", key, `{"photos":[1,2,3,4]}`).json(t)
	require.Equal(t, false, q["affordable"])
	require.Empty(t, q["draws"])
	require.Equal(t, 400, b.post("/credits/quote/studio/apply", key, `{"photos":[1],"photos":[]}`).StatusCode)
	require.Equal(t, 404, b.post("/credits/quote/nothing", key, "").StatusCode)
	q = b.post("/credits/quote/studio/revert", key, "").json(t)
	require.Equal(t, true, q["affordable"])
	require.Zero(t, b.backend.calls.Load())
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{3000, 0}, [2]meter.Credits{available, held})
}

func TestReservationOfTheOwnAccount(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	id := b.post("/plain", key, "").Header.Get("X-Credits-Reservation")
	r := b.do(http.MethodGet, b.data+"/credits/reservations/"+id, key, "")
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	v := r.json(t)
	require.Equal(t, id, v["id"])
	require.Equal(t, "committed", v["state"])
	require.InDelta(t, 2, v["charged"], 0)
	require.InDelta(t, 0, v["returned"], 0)
	require.Nil(t, v["lease_expires_at"])
	require.Equal(t, "purchased", v["draws"].([]any)[0].(map[string]any)["bucket"])

	other := b.account("other", 0)
	require.Equal(t, 404, b.do(http.MethodGet, b.data+"/credits/reservations/"+id, other, "").StatusCode)
	require.Equal(t, 404, b.do(http.MethodGet, b.data+"/credits/reservations/nonsense", key, "").StatusCode)
	never := b.engine.NewReservationID("acme").String()
	require.Equal(t, 404, b.do(http.MethodGet, b.data+"/credits/reservations/"+never, key, "").StatusCode)
}

func TestKeysAreCachedAndOutlivePostgres(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.KeyTTL = time.Second })
	key := b.account("acme", 0)
	began := time.Now()
	for range 20 {
		require.Equal(t, 200, b.post("/studio/revert", key, "").StatusCode)
	}
	require.LessOrEqual(t, b.house.lookups.Load(), 1+int64(time.Since(began)/(time.Second/2)), "one for each half TTL")

	b.house.fail(errors.New("connection refused"))
	outage := time.Now()
	for time.Since(outage) < 2500*time.Millisecond { // well beyond the TTL
		require.Equal(t, 200, b.post("/studio/revert", key, "").StatusCode)
	}
	r := b.post("/studio/revert", "sk-never-seen", "")
	require.Equal(t, 503, r.StatusCode, "not known to be wrong")
	require.Equal(t, "metering-unavailable", r.json(t)["code"])

	b.house.fail(nil)
	require.Equal(t, 204, b.control("DELETE", "/v1/accounts/acme/keys/k-acme", "").StatusCode)
	require.Eventually(t, func() bool { return b.post("/studio/revert", key, "").StatusCode == http.StatusUnauthorized },
		20*time.Second, 20*time.Millisecond, "a revoked key stops")
}

func TestControlPlane(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, 401, b.do("GET", b.admin+"/v1/policy", "wrong", "").StatusCode)
	require.Equal(t, 401, b.do("GET", b.admin+"/v1/policy", "", "").StatusCode)
	require.Equal(t, 401, b.do("GET", b.admin+"/nothing", "", "").StatusCode, "routes are not shown to strangers")
	require.Equal(t, 404, b.control("GET", "/nothing", "").StatusCode)
	require.Equal(t, 200, b.do("GET", b.admin+"/livez", "", "").StatusCode)

	r := b.control("PUT", "/v1/accounts/acme", `{"product":"studio"}`)
	require.Equal(t, 201, r.StatusCode, "%s", r.body)
	require.Equal(t, "studio", r.json(t)["product"])
	require.Equal(t, 200, b.control("PUT", "/v1/accounts/acme", "").StatusCode)
	require.Equal(t, 200, b.control("GET", "/v1/accounts/acme", "").StatusCode)
	require.Equal(t, 404, b.control("GET", "/v1/accounts/nobody", "").StatusCode)

	r = b.control("POST", "/v1/accounts/acme/keys", `{"external_ref":"k1"}`)
	require.Equal(t, 201, r.StatusCode)
	key := r.json(t)["key"].(string)
	require.True(t, strings.HasPrefix(key, "sk-"))
	r = b.control("POST", "/v1/accounts/acme/keys", `{}`, "Idempotency-Key", "k1")
	require.Equal(t, 200, r.StatusCode)
	require.NotContains(t, r.json(t), "key", "shown once")

	grant := `{"bucket":"monthly","credits":2.5,"external_ref":"order-1","reason":"welcome"}`
	r = b.control("POST", "/v1/accounts/acme/grants", grant, "X-Actor", "alice")
	require.Equal(t, 201, r.StatusCode, "%s", r.body)
	require.Equal(t, true, r.json(t)["applied"])
	id := r.json(t)["grant_id"].(string)
	r = b.control("POST", "/v1/accounts/acme/grants", grant)
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, id, r.json(t)["grant_id"])
	r = b.control("POST", "/v1/accounts/acme/grants", strings.Replace(grant, "2.5", "3", 1))
	require.Equal(t, 409, r.StatusCode)
	require.Equal(t, "conflict", r.json(t)["code"])
	available, _ := b.wallet("acme")
	require.Equal(t, meter.Credits(2500), available)
	require.Equal(t, 200, b.control("PATCH", "/v1/accounts/acme/grants/"+id, `{"expires_at":"2030-01-01T00:00:00Z","external_ref":"m1"}`).StatusCode)
	require.Equal(t, 200, b.control("PATCH", "/v1/accounts/acme/grants/"+id, `{"expires_at":null,"external_ref":"m2"}`).StatusCode)
	require.Equal(t, 201, b.control("POST", "/v1/accounts/acme/revocations",
		`{"grant_id":"`+id+`","credits":1,"external_ref":"r1","reason":"chargeback"}`).StatusCode)

	r = b.control("GET", "/v1/policy", "")
	require.Equal(t, 200, r.StatusCode)
	require.Contains(t, string(r.body), `"match":"POST /studio/apply"`)

	b.house.mu.Lock()
	b.house.closed = []meter.PartitionState{{Partition: 1, State: "fenced", Reason: "Redis restarted"}}
	b.house.mu.Unlock()
	r = b.do("GET", b.admin+"/readyz", "", "")
	require.Equal(t, 503, r.StatusCode)
	require.Contains(t, string(r.body), `"detail":"partition 1: Redis restarted"`)
	require.Contains(t, string(r.body), `"closed_partitions":[{"partition":1,"state":"fenced","reason":"Redis restarted"}]`)
}

func TestControlPlaneRefusesBadInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	grants, revocations := "/v1/accounts/acme/grants", "/v1/accounts/acme/revocations"
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		param              string
	}{
		"unknown field":  {"POST", grants, `{"bucket":"monthly","credits":1,"external_ref":"x","colour":1}`, 400, "colour"},
		"no reference":   {"POST", grants, `{"bucket":"monthly","credits":1}`, 400, "external_ref"},
		"bad reference":  {"POST", grants, `{"bucket":"monthly","credits":1,"external_ref":"a b"}`, 400, "external_ref"},
		"unknown bucket": {"POST", grants, `{"bucket":"gold","credits":1,"external_ref":"x"}`, 400, "bucket"},
		"zero":           {"POST", grants, `{"bucket":"monthly","credits":0,"external_ref":"x"}`, 400, "credits"},
		"negative":       {"POST", grants, `{"bucket":"monthly","credits":-1,"external_ref":"x"}`, 400, "credits"},
		"four decimals":  {"POST", grants, `{"bucket":"monthly","credits":0.0001,"external_ref":"x"}`, 400, "credits"},
		"string":         {"POST", grants, `{"bucket":"monthly","credits":"1","external_ref":"x"}`, 400, "credits"},
		"exponent":       {"POST", grants, `{"bucket":"monthly","credits":1e3,"external_ref":"x"}`, 400, "credits"},
		"no JSON":        {"POST", grants, `hello`, 400, ""},
		"two objects":    {"POST", grants, `{}{}`, 400, ""},
		"expiry before start": {"POST", grants, `{"bucket":"monthly","credits":1,"external_ref":"x",
			"effective_at":"2027-01-01T00:00:00Z","expires_at":"2026-01-01T00:00:00Z"}`, 400, "expires_at"},
		"bad time":        {"POST", grants, `{"bucket":"monthly","credits":1,"external_ref":"x","expires_at":"tomorrow"}`, 400, "expires_at"},
		"bad account id":  {"PUT", "/v1/accounts/a%20b", `{}`, 400, "account"},
		"long account id": {"PUT", "/v1/accounts/" + strings.Repeat("a", 65), `{}`, 400, "account"},
		"unknown product": {"PUT", "/v1/accounts/new", `{"product":"x"}`, 400, "product"},
		"expiry missing":  {"PATCH", grants + "/" + meter.NewID(time.Now()).String(), `{"external_ref":"m"}`, 400, "expires_at"},
		"no such grant":   {"PATCH", grants + "/" + meter.NewID(time.Now()).String(), `{"expires_at":null,"external_ref":"m"}`, 404, ""},
		"two targets": {"POST", revocations, `{"grant_id":"a","purchase_ref":"b","external_ref":"x",
			"reason":"y"}`, 400, "grant_id"},
		"no reason":           {"POST", revocations, `{"purchase_ref":"b","external_ref":"x"}`, 400, "reason"},
		"no such key":         {"DELETE", "/v1/accounts/acme/keys/none", ``, 404, ""},
		"lease too short":     {"POST", "/v1/reservations", `{"account":"acme","credits":1,"lease_seconds":0}`, 400, "lease_seconds"},
		"no account":          {"POST", "/v1/reservations", `{"credits":1}`, 400, "account"},
		"unknown account":     {"POST", "/v1/reservations", `{"account":"nobody","credits":1}`, 404, ""},
		"no such reservation": {"POST", "/v1/reservations/" + b.engine.NewReservationID("acme").String() + "/commit", ``, 404, ""},
		"not a reservation":   {"GET", "/v1/reservations/x", ``, 404, ""},
		"method":              {"DELETE", "/v1/accounts/acme", ``, 404, ""},
	} {
		r := b.control(c.method, c.path, c.body)
		require.Equal(t, c.status, r.StatusCode, "%s: %s", name, r.body)
		p := r.json(t)
		require.NotEmpty(t, p["detail"], name)
		if c.param != "" {
			require.Equal(t, c.param, p["error"].(map[string]any)["param"], name)
		}
	}
	r := b.control("POST", grants, `{"bucket":"monthly","credits":1,"external_ref":"x","colour":1}`)
	require.Contains(t, string(r.body), "colour", "the field is named")
	require.Equal(t, 413, b.control("POST", grants, `{"reason":"`+strings.Repeat("x", 70_000)+`"}`).StatusCode)
	require.Equal(t, 400, b.control("POST", grants, `{}`, "X-Actor", strings.Repeat("x", 121)).StatusCode)
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held})
	b.house.fail(errors.New("connection refused"))
	r = b.control("POST", grants, `{"bucket":"monthly","credits":1,"external_ref":"y"}`)
	require.Equal(t, 503, r.StatusCode)
	require.Equal(t, "storage-unavailable", r.json(t)["code"])
}

// A control-plane body that is too large is read to its end, up to the bound of a lingering close. A close with unread
// bytes would reset the connection, and the client would see that reset in place of the 413.
func TestControlPlaneAnswersABodyThatIsTooLarge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	body := `{"reason":"` + strings.Repeat("x", 4<<20) + `"}`
	for range 20 {
		r, err := b.try("POST", b.admin+"/v1/accounts/acme/grants", adminToken, body)
		require.NoError(t, err)
		require.Equal(t, 413, r.StatusCode)
	}
}

func TestReservationsByHand(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	reserve := func(body string, headers ...string) *reply {
		return b.control("POST", "/v1/reservations", body, headers...)
	}
	r := reserve(`{"account":"acme","credits":4,"operation":"batch","lease_seconds":600}`, "Idempotency-Key", "job-1")
	require.Equal(t, 201, r.StatusCode, "%s", r.body)
	v := r.json(t)
	require.Equal(t, "held", v["state"])
	require.NotNil(t, v["lease_expires_at"])
	require.Equal(t, "purchased", v["draws"].([]any)[0].(map[string]any)["bucket"])
	path := "/v1/reservations/" + v["id"].(string)

	again := reserve(`{"account":"acme","credits":4,"operation":"batch","lease_seconds":600}`, "Idempotency-Key", "job-1")
	require.Equal(t, 200, again.StatusCode, "%s", again.body)
	require.Equal(t, v["id"], again.json(t)["id"])
	require.Equal(t, 409, reserve(`{"account":"acme","credits":5}`, "Idempotency-Key", "job-1").StatusCode)

	r = b.control("POST", path+"/extend", `{"lease_seconds":3600}`)
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.Greater(t, r.json(t)["lease_expires_at"], v["lease_expires_at"])
	outcome := func(r *reply, status int, code, state string, charged float64) {
		t.Helper()
		v := r.json(t)
		require.Equal(t, status, r.StatusCode, "%s", r.body)
		require.Equal(t, []any{code, state, path[len("/v1/reservations/"):]}, []any{v["code"], v["state"], v["reservation_id"]})
		require.InDelta(t, 4, v["reserved"], 0)
		require.InDelta(t, charged, v["charged"], 0)
	}
	outcome(b.control("POST", path+"/commit", `{"credits":5}`), 400, "amount-exceeds-hold", "held", 0)
	r = b.control("POST", path+"/commit", `{"credits":1.5}`)
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	v = r.json(t)
	require.Equal(t, "committed", v["state"])
	require.InDelta(t, 1.5, v["charged"], 0)
	require.InDelta(t, 2.5, v["returned"], 0)
	require.Equal(t, 200, b.control("POST", path+"/commit", `{"credits":1.5}`).StatusCode, "the same again")
	outcome(b.control("POST", path+"/commit", `{"credits":2}`), 409, "amount-conflict", "committed", 1.5)
	outcome(b.control("POST", path+"/release", ``), 409, "reservation-committed", "committed", 1.5)
	outcome(b.control("POST", path+"/extend", `{"lease_seconds":60}`), 409, "reservation-committed", "committed", 1.5)

	v = reserve(`{"account":"acme","credits":4}`).json(t)
	path = "/v1/reservations/" + v["id"].(string)
	r = b.control("POST", path+"/release", "")
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, "released", r.json(t)["state"])
	outcome(b.control("POST", path+"/commit", ``), 409, "reservation-released", "released", 0)
	outcome(b.control("POST", path+"/extend", `{"lease_seconds":60}`), 409, "reservation-released", "released", 0)

	path = "/v1/reservations/" + reserve(`{"account":"acme","credits":4,"lease_seconds":1}`).json(t)["id"].(string)
	require.Eventually(t, func() bool {
		return b.control("GET", path, "").json(t)["state"] == "expired"
	}, 20*time.Second, 20*time.Millisecond)
	outcome(b.control("POST", path+"/extend", `{"lease_seconds":60}`), 409, "reservation-expired", "expired", 0)
	r = reserve(`{"account":"acme","credits":100}`)
	require.Equal(t, 402, r.StatusCode)
	require.InDelta(t, 8.5, r.json(t)["available"], 0)
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{8500, 0}, [2]meter.Credits{available, held})
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := gateway.New(t.Context(), gateway.Options{Settings: gateway.Settings{
		Upstreams: []string{"127.0.0.1:9000", "http://x/path"}, AdminToken: "short", KeyTTL: time.Minute, Prefix: "credits/",
		TrustedPeers: []string{"nonsense"}, BreakerRatio: 2,
	}})
	require.Error(t, err)
	for _, want := range []string{
		"write http://127.0.0.1:9000", "write http://x", "admin_token", "key_ttl", "prefix", "nonsense", "breaker_ratio", "Options.Meter",
	} {
		require.ErrorContains(t, err, want)
	}
}
