package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

func TestPricedRequest(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	b.backend.answer(200, `{"results":[{"id":1,"status":"ok"},{"id":2,"status":"ok"},{"id":3,"status":"ok"}]}`)
	r := b.post("/studio/apply", key, `{"photos":[1,2,3]}`)
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.Equal(t, "3", r.Header.Get("X-Credits-Reserved"))
	require.Equal(t, "3", r.Header.Get("X-Credits-Charged"))
	require.Equal(t, "7", r.Header.Get("X-Credits-Remaining"))
	id, err := meter.ParseReservationID(r.Header.Get("X-Credits-Reservation"))
	require.NoError(t, err)
	require.Equal(t, id.ID.String(), r.Header.Get("X-Request-ID"))
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{7000, 0}, [2]meter.Credits{available, held})
}

func TestOnlyWhatIsDeliveredIsCharged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	left := 10 * meter.Credit
	for name, c := range map[string]struct {
		status  int
		body    string
		charged meter.Credits
		want    int
	}{
		"all":              {200, `{"results":[{"status":"ok"},{"status":"ok"}]}`, 2000, 200},
		"a part":           {200, `{"results":[{"status":"ok"},{"status":"failed"}]}`, 1000, 200},
		"nothing":          {200, `{"results":[{"status":"failed"},{"status":"failed"}]}`, 0, 200},
		"more than asked":  {200, `{"results":[{"status":"ok"},{"status":"ok"},{"status":"ok"}]}`, 2000, 200},
		"client error":     {422, `{"error":"logo without background"}`, 0, 422},
		"backend error":    {500, `oops`, 0, 500},
		"redirect":         {302, ``, 0, 302},
		"an error":         {200, `{"error":{"code":"moderation_blocked"}}`, 0, 200},
		"unreadable":       {200, `{"results":[{"status"`, 0, 502},
		"not even JSON":    {200, `<html>`, 0, 502},
		"another document": {200, `{"images":[]}`, 0, 502},
	} {
		b.backend.answer(c.status, c.body)
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		r := b.post("/studio/apply", key, `{"photos":[1,2]}`)
		require.Equal(t, c.want, r.StatusCode, "%s: %s", name, r.body)
		require.Equal(t, c.charged.String(), r.Header.Get("X-Credits-Charged"), name)
		if c.want == c.status {
			require.Equal(t, c.body, string(r.body), name)
		}
		left -= c.charged
		require.Equal(t, left.String(), r.Header.Get("X-Credits-Remaining"), name)
		available, held := b.wallet("acme")
		require.Equal(t, [2]meter.Credits{left, 0}, [2]meter.Credits{available, held}, name)
	}
}

func TestInsufficient(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 2*meter.Credit)
	r := b.post("/studio/apply", key, `{"photos":[1,2,3]}`)
	require.Equal(t, 402, r.StatusCode)
	require.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
	require.Equal(t, "false", r.Header.Get("X-Should-Retry"))
	require.Empty(t, r.Header.Get("Retry-After"))
	p := r.json(t)
	require.Equal(t, "insufficient-credits", p["code"])
	require.Equal(t, "/problems/insufficient-credits", p["type"])
	require.InDelta(t, 3, p["required"], 0)
	require.InDelta(t, 2, p["available"], 0)
	require.InDelta(t, 0, p["held"], 0)
	require.InDelta(t, 2, p["affordable_units"], 0)
	require.Contains(t, p, "next_reset_at")
	require.Len(t, p["buckets"], 3)
	require.Equal(t, "insufficient-credits", p["error"].(map[string]any)["code"])
	require.Equal(t, r.Header.Get("X-Request-ID"), p["request_id"])
	require.Zero(t, b.backend.calls.Load())

	// What is missing is held by an unfinished request: waiting helps, and the answer says so.
	d, err := b.engine.Reserve(t.Context(), meter.Reserve{
		ID: b.engine.NewReservationID("acme"), Account: "acme", Amount: meter.Credit, Lease: meter.LeaseMax,
	})
	require.NoError(t, err)
	require.Equal(t, meter.CodeOK, d.Code)
	r = b.post("/studio/apply", key, `{"photos":[1,2]}`)
	require.Equal(t, 402, r.StatusCode)
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	require.Equal(t, "true", r.Header.Get("X-Should-Retry"))
}

func TestFreeOperationNeedsNoRedis(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 0)
	require.NoError(t, b.redis.Kill())
	r := b.post("/studio/revert", key, `anything`)
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.Empty(t, r.Header.Get("X-Credits-Charged"))
	require.NotEmpty(t, r.Header.Get("X-Request-ID"))
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	post := func(path, body string, headers ...string) func() *reply {
		return func() *reply { return b.post(path, key, body, headers...) }
	}
	for name, c := range map[string]struct {
		send   func() *reply
		status int
		code   string
	}{
		"no key":            {func() *reply { return b.post("/plain", "", "") }, 401, "unauthenticated"},
		"unknown key":       {func() *reply { return b.post("/plain", "sk-nobody", "") }, 401, "unauthenticated"},
		"two keys":          {post("/plain", "", "X-Api-Key", "sk-other"), 401, "unauthenticated"},
		"malformed JSON":    {post("/studio/apply", `{"photos":[1`), 400, "invalid-request"},
		"duplicate name":    {post("/studio/apply", `{"photos":[1,2,3],"photos":[1]}`), 400, "ambiguous-price"},
		"case variant":      {post("/studio/apply", `{"photos":[1],"Photos":[1,2]}`), 400, "ambiguous-price"},
		"float":             {post("/v1/images/generations", `{"n":1.5}`), 400, "invalid-request"},
		"exponent":          {post("/v1/images/generations", `{"n":1e1}`), 400, "invalid-request"},
		"string":            {post("/v1/images/generations", `{"n":"2"}`), 400, "invalid-request"},
		"negative":          {post("/v1/images/generations", `{"n":-1}`), 400, "invalid-request"},
		"huge":              {post("/v1/images/generations", `{"n":99999999999999999999}`), 400, "invalid-request"},
		"above the maximum": {post("/v1/images/generations", `{"n":11}`), 400, "invalid-request"},
		"no body":           {post("/studio/apply", ""), 400, "invalid-request"},
		"content encoding":  {post("/studio/apply", "xx", "Content-Encoding", "br"), 415, "unsupported-encoding"},
		"unpriced":          {post("/other", ""), 404, "unpriced-route"},
		"other method":      {func() *reply { return b.do("PUT", b.data+"/plain", key, "") }, 404, "unpriced-route"},
		"bad key syntax":    {post("/plain", "", "Idempotency-Key", `"open`), 400, "invalid-request"},
		"long key":          {post("/plain", "", "Idempotency-Key", string(make256('k'))), 400, "invalid-request"},
		"semicolon query":   {post("/plain?a=1;b=2", ""), 400, "ambiguous-price"},
		"trailing slash":    {post("/plain/", ""), 404, "unpriced-route"},
		"other case":        {post("/Plain", ""), 404, "unpriced-route"},
		"huge body":         {post("/studio/apply", string(make([]byte, 40<<20))), 413, "payload-too-large"},
		"no such own route": {func() *reply { return b.do("GET", b.data+"/credits/x", key, "") }, 404, "not-found"},
	} {
		r := c.send()
		require.Equal(t, c.status, r.StatusCode, "%s: %s", name, r.body)
		p := r.json(t)
		require.Equal(t, c.code, p["code"], "%s: %s", name, r.body)
		require.NotEmpty(t, p["detail"], name)
		require.NotEmpty(t, p["request_id"], name)
	}
	require.Zero(t, b.backend.calls.Load())
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held})
}

func make256(c byte) []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = c
	}
	return b
}

func TestPathSpellings(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	for _, path := range []string{
		"//plain", "/./plain", "/x/../plain", "/%70lain", "/plain%2F", "/plain;x=1", "/upscale/%2e%2e", "/upscale/a%2fb",
		"/upscale/a%5Cb", `/upscale/a\b`, "/upscale/a%00", "/upscale/%2561", "/upscale/a%3bb", "/plain#x", "*",
		"http://other//plain",
	} {
		resp := b.raw("POST " + path + " HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer sk-acme\r\nContent-Length: 0\r\n\r\n")
		require.Equal(t, 400, resp.StatusCode, path)
	}
	require.Zero(t, b.backend.calls.Load())

	// A path that must be encoded reaches the backend in the very bytes that were matched.
	var got string
	b.backend.on(func(ctx *fasthttp.RequestCtx) { got = string(ctx.Request.Header.RequestURI()) })
	resp := b.raw("POST /upscale/a%20b%C3%A9?q=a%20b&x=%2F HTTP/1.1\r\nHost: gw\r\nX-Api-Key: sk-acme\r\n" +
		"Content-Length: 0\r\n\r\n")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "/upscale/a%20b%C3%A9?q=a%20b&x=%2F", got)
}

// TestCutBody: a client that breaks off has not sent a request, however its body was framed.
func TestCutBody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	head := "POST /plain HTTP/1.1\r\nHost: gw\r\nX-Api-Key: sk-acme\r\n"
	for name, rest := range map[string]string{
		"chunked, between chunks": "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"chunked, in a chunk":     "Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"chunked, no end":         "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
		"length":                  "Content-Length: 20000\r\n\r\n" + strings.Repeat("x", 10_000),
		"chunked, nonsense":       "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(b.data, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(c, head+rest)
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err, name)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 400, resp.StatusCode, name)
		require.NoError(t, c.Close())
	}
	require.Zero(t, b.backend.calls.Load())
	resp := b.raw(head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	require.Equal(t, 200, resp.StatusCode)
}

// A suspended account spends nothing, and still sees what it has.
func TestSuspended(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", meter.Credit)
	require.Equal(t, 200, b.control("PUT", "/v1/accounts/acme", `{"suspended":true}`).StatusCode)
	for _, path := range []string{"/studio/revert", "/plain"} {
		r := b.post(path, key, "")
		require.Equal(t, 403, r.StatusCode)
		require.Equal(t, "account-suspended", r.json(t)["code"])
	}
	require.Zero(t, b.backend.calls.Load())
	require.Equal(t, 403, b.post("/credits/quote/plain", key, "").StatusCode)
	for _, path := range []string{"/balance", "/history", "/usage", "/packs"} {
		r := b.do("GET", b.data+"/credits"+path, key, "")
		require.Equal(t, 200, r.StatusCode, "%s: %s", path, r.body)
	}
	r := b.do("GET", b.data+"/credits/balance", key, "").json(t)
	require.Equal(t, true, r["suspended"])
	require.InDelta(t, 1, r["available"], 0)
}

// TestNeverOversold: many clients, one account, fewer credits than requests.
func TestNeverOversold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 0)
	for rank, bucket := range []string{"promo", "monthly", "purchased"} {
		b.grant("acme", bucket, uint8(rank), 50*meter.Credit)
	}
	var paid, refused atomic.Int64
	var clients sync.WaitGroup
	for range 32 {
		clients.Go(func() {
			for range 10 {
				r, err := b.try(http.MethodPost, b.data+"/upscale/1", key, "")
				switch {
				case err == nil && r.StatusCode == http.StatusOK && r.Header.Get("X-Credits-Charged") == "1":
					paid.Add(1)
				case err == nil && r.StatusCode == http.StatusPaymentRequired:
					refused.Add(1)
				}
			}
		})
	}
	clients.Wait()
	require.Equal(t, [2]int64{150, 170}, [2]int64{paid.Load(), refused.Load()})
	require.EqualValues(t, 150, b.backend.calls.Load())
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{}, [2]meter.Credits{available, held})
}
