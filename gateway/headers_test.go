package gateway_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/policy"
)

// echo remembers the head of the last request that reached the backend.
func (b *backend) echo() map[string][]string {
	got := map[string][]string{}
	b.on(func(ctx *fasthttp.RequestCtx) {
		clear(got)
		for k, v := range ctx.Request.Header.All() {
			got[string(k)] = append(got[string(k)], string(v))
		}
		h := &ctx.Response.Header
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "backend")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("X-Credits-Charged", "99")
		h.Set("X-Request-Id", "backend")
		h.Set("Idempotent-Replayed", "true")
		h.Set("Etag", `"1"`)
		h.Add("Set-Cookie", "a=1; Path=/")
		h.Add("Set-Cookie", "b=2; Path=/")
		h.Add("Vary", "Accept")
		h.Add("Vary", "Origin")
		ctx.SetBodyString("ok")
	})
	return got
}

func TestHeadersBothWays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	got := b.backend.echo()
	resp := b.raw("POST /plain?x=1 HTTP/1.1\r\nHost: studio.example\r\nAuthorization: Bearer sk-acme\r\nX-Api-Key: sk-acme\r\n" +
		"Connection: keep-alive, X-Private, Te\r\nX-Private: 1\r\nTe: trailers\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\n" +
		"Proxy-Authorization: x\r\nX-Credits-Charged: 0\r\nx-credits-anything: 1\r\nX_Credits_Charged: 0\r\n" +
		"X-Request-Id: mine\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=9.9.9.9\r\n" +
		"X-Account-Id: other\r\nIdempotency-Key: k1\r\nVia: 1.0 edge\r\nAccept-Language: de\r\nAccept: a\r\nAccept: b\r\n" +
		"Cookie: c=1\r\nUser-Agent: test/1\r\nContent-Type: text/x\r\nContent-Length: 2\r\n\r\nhi")
	require.Equal(t, 200, resp.StatusCode)
	for _, gone := range []string{
		"Authorization", "X-Api-Key", "Connection", "X-Private", "Te", "Keep-Alive", "Upgrade", "Proxy-Authorization",
		"X-Credits-Charged", "X-Credits-Anything", "X_credits_charged", "X_Credits_Charged", "Forwarded", "X-Account-Id",
		"Idempotency-Key",
	} {
		require.NotContains(t, got, gone)
	}
	id := resp.Header.Get("X-Credits-Reservation")
	require.Equal(t, []string{id}, got["X-Request-Id"])
	require.Equal(t, []string{"127.0.0.1"}, got["X-Forwarded-For"])
	require.Equal(t, []string{"http"}, got["X-Forwarded-Proto"])
	require.Equal(t, []string{"studio.example"}, got["X-Forwarded-Host"])
	require.Equal(t, []string{"1.0 edge, 1.1 creditgate"}, got["Via"])
	require.Equal(t, []string{"a", "b"}, got["Accept"])
	require.Equal(t, []string{"de"}, got["Accept-Language"])
	require.Equal(t, []string{"c=1"}, got["Cookie"])
	require.Equal(t, []string{"test/1"}, got["User-Agent"])
	require.Equal(t, []string{"text/x"}, got["Content-Type"])
	require.Equal(t, []string{strings.TrimPrefix(b.backend.url, "http://")}, got["Host"])

	require.Equal(t, "2", resp.Header.Get("X-Credits-Charged"))
	require.True(t, strings.HasSuffix(id, resp.Header.Get("X-Request-ID")))
	require.Equal(t, `"1"`, resp.Header.Get("ETag"))
	require.Equal(t, []string{"a=1; Path=/", "b=2; Path=/"}, resp.Header.Values("Set-Cookie"))
	require.Equal(t, []string{"Accept", "Origin"}, resp.Header.Values("Vary"))
	require.Empty(t, resp.Header.Get("X-Hop"))
	require.Empty(t, resp.Header.Get("Keep-Alive"))
	require.Empty(t, resp.Header.Get("Idempotent-Replayed"))
	require.Len(t, resp.Header.Values("X-Credits-Charged"), 1)
	require.Len(t, resp.Header.Values("Date"), 1)
}

func TestTrustedPeer(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) {
		o.TrustedPeers, o.UpstreamIdempotencyKey = []string{"127.0.0.0/8"}, true
	})
	b.account("acme", 10*meter.Credit)
	got := b.backend.echo()
	r := b.post("/plain", "", "", "X-Account-Id", "acme", "X-Forwarded-For", "9.9.9.9", "X-Forwarded-Proto", "https",
		"Idempotency-Key", "mine")
	require.Equal(t, 200, r.StatusCode, "%s", r.body)
	require.Equal(t, []string{"9.9.9.9, 127.0.0.1"}, got["X-Forwarded-For"])
	require.Equal(t, []string{"https"}, got["X-Forwarded-Proto"])
	require.Equal(t, []string{r.Header.Get("X-Credits-Reservation")}, got["Idempotency-Key"])
	require.NotContains(t, got, "X-Account-Id")
	require.Equal(t, 401, b.post("/plain", "", "", "X-Account-Id", "nobody").StatusCode)
	require.Equal(t, 401, b.post("/plain", "", "", "X-Account-Id", "a b").StatusCode)
}

func TestUntrustedPeerNamesNoAccount(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	require.Equal(t, 401, b.post("/plain", "", "", "X-Account-Id", "acme").StatusCode)
}

func TestIdempotentReplay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("image/png")
		ctx.Response.Header.Add("Set-Cookie", "a=1")
		ctx.SetStatusCode(201)
		ctx.SetBodyString("PNG")
	})
	first := b.post("/plain", key, `{"a":1}`, "Idempotency-Key", `"k-1"`)
	require.Equal(t, 201, first.StatusCode)
	require.Empty(t, first.Header.Get("Idempotent-Replayed"))
	second := b.post("/plain", key, `{"a":1}`, "Idempotency-Key", "k-1")
	require.Equal(t, 201, second.StatusCode)
	require.Equal(t, "true", second.Header.Get("Idempotent-Replayed"))
	require.Equal(t, first.body, second.body)
	for _, h := range []string{
		"X-Credits-Reservation", "X-Credits-Reserved", "X-Credits-Charged", "X-Credits-Remaining", "X-Request-Id",
		"Content-Type", "Set-Cookie",
	} {
		require.Equal(t, first.Header.Values(h), second.Header.Values(h), h)
	}
	require.EqualValues(t, 1, b.backend.calls.Load())
	available, held := b.wallet("acme")
	require.Equal(t, [2]meter.Credits{8000, 0}, [2]meter.Credits{available, held})

	other := b.post("/plain", key, `{"a":2}`, "Idempotency-Key", "k-1")
	require.Equal(t, 422, other.StatusCode)
	require.Equal(t, "idempotency-mismatch", other.json(t)["code"])

	// Another account's key of the same name is another key.
	require.Equal(t, 201, b.post("/plain", b.account("other", 10*meter.Credit), `{"a":2}`, "Idempotency-Key", "k-1").StatusCode)

	// A failure is not an outcome to be replayed: the next try is a new attempt.
	b.backend.answer(500, "no")
	require.Equal(t, 500, b.post("/plain", key, "", "Idempotency-Key", "k-2").StatusCode)
	b.backend.answer(200, "yes")
	r := b.post("/plain", key, "", "Idempotency-Key", "k-2")
	require.Equal(t, 200, r.StatusCode)
	require.Empty(t, r.Header.Get("Idempotent-Replayed"))
}

func TestReplayUnavailable(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.ReplayMax = 10 })
	key := b.account("acme", 10*meter.Credit)
	b.backend.answer(200, "more than ten bytes")
	first := b.post("/plain", key, "", "Idempotency-Key", "k")
	require.Equal(t, 200, first.StatusCode)
	r := b.post("/plain", key, "", "Idempotency-Key", "k")
	require.Equal(t, 409, r.StatusCode)
	p := r.json(t)
	require.Equal(t, "replay-unavailable", p["code"])
	require.Equal(t, first.Header.Get("X-Credits-Reservation"), p["reservation_id"])
	require.InDelta(t, 2, p["charged"], 0)
	require.Equal(t, "false", r.Header.Get("X-Should-Retry"))
	require.EqualValues(t, 1, b.backend.calls.Load())
}

func TestRequestInProgress(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	proceed := make(chan struct{})
	b.backend.on(func(ctx *fasthttp.RequestCtx) { <-proceed; ctx.SetBodyString("done") })
	done := make(chan *reply, 1)
	go func() {
		r, _ := b.try(http.MethodPost, b.data+"/plain", key, "", "Idempotency-Key", "k")
		done <- r
	}()
	require.Eventually(t, func() bool { return b.backend.calls.Load() == 1 }, 20*time.Second, time.Millisecond)
	r := b.post("/plain", key, "", "Idempotency-Key", "k")
	require.Equal(t, 409, r.StatusCode)
	p := r.json(t)
	require.Equal(t, "request-in-progress", p["code"])
	require.Equal(t, "1", r.Header.Get("Retry-After"), "the gateway runs: its request may end at any moment")
	end, err := time.Parse(time.RFC3339, fmt.Sprint(p["lease_expires_at"]))
	require.NoError(t, err)
	require.WithinRange(t, end, time.Now(), time.Now().Add(2*time.Minute))
	close(proceed)
	require.Equal(t, 200, (<-done).StatusCode)
	require.Equal(t, "true", b.post("/plain", key, "", "Idempotency-Key", "k").Header.Get("Idempotent-Replayed"))
}

// TestExpectContinue: a client that would be refused is told before it sends its body.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	head := "POST /plain HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\n"
	require.Equal(t, 401, b.raw(head+"Content-Length: 5\r\n\r\n").StatusCode)
	require.Equal(t, 413, b.raw(head+"X-Api-Key: sk-acme\r\nContent-Length: 100000000\r\n\r\n").StatusCode)
	resp := b.raw(head + "X-Api-Key: sk-acme\r\nContent-Length: 5\r\n\r\nhello") // the first answer is the 100 itself
	require.Equal(t, 100, resp.StatusCode)
	require.Eventually(t, func() bool { return b.backend.calls.Load() == 1 }, 20*time.Second, time.Millisecond)
}

func TestLimitsOfTheHead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	resp := b.raw("GET / HTTP/1.1\r\nHost: gw\r\nX-Big: " + strings.Repeat("x", 40<<10) + "\r\n\r\n")
	require.Equal(t, 431, resp.StatusCode)
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	require.Equal(t, 400, b.raw("nonsense\r\n\r\n").StatusCode)
	for _, smuggled := range []string{
		"Content-Length: 1\r\nContent-Length: 2\r\n", "Transfer-Encoding: gzip\r\n", "Host: b\r\n", "Content-Length : 1\r\n",
	} {
		resp := b.raw("POST /plain HTTP/1.1\r\nHost: gw\r\nX-Api-Key: sk-acme\r\n" + smuggled + "\r\n")
		require.Equal(t, 400, resp.StatusCode, smuggled)
	}
	require.Zero(t, b.backend.calls.Load())
}

// TestHugeBody: a client that does not stop sending still reads why it was refused, and nothing is kept of its body.
func TestHugeBody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	for _, length := range []int64{100 << 20, -1} {
		body := io.LimitReader(rand.Reader, 100<<20)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.data+"/studio/apply", body)
		require.NoError(t, err)
		req.ContentLength = length
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := b.client.Do(req)
		require.NoError(t, err)
		require.Equal(t, 413, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
	}
	require.Zero(t, b.backend.calls.Load())
	_, held := b.wallet("acme")
	require.Zero(t, held)
}

// TestUnreadBodyIsNotTheNextRequest: what a refused client sends as a body must not be taken for a request.
func TestUnreadBodyIsNotTheNextRequest(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	smuggled := "POST /plain HTTP/1.1\r\nHost: gw\r\nX-Api-Key: sk-acme\r\nContent-Length: 0\r\n\r\n"
	for _, pad := range []int{0, 20_000, 200_000} {
		c, err := net.Dial("tcp", strings.TrimPrefix(b.data, "http://"))
		require.NoError(t, err)
		body := strings.Repeat("x", pad) + smuggled
		_, err = io.WriteString(c, "POST /plain HTTP/1.1\r\nHost: gw\r\nX-Api-Key: wrong\r\nContent-Length: "+
			strconv.Itoa(len(body))+"\r\n\r\n"+body)
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(answer), "HTTP/1.1 "), "%s", answer)
		require.Contains(t, string(answer), "HTTP/1.1 401 ")
		require.NoError(t, c.Close())
	}
	require.Zero(t, b.backend.calls.Load())
}

func TestHeadOfAFreeOperation(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) {
		p, err := policy.Parse("p.yaml", []byte("name: p\ntimezone: UTC\nbuckets: [a]\noperations: "+
			"{x: {match: HEAD /x, credits: 0}}\nunmatched: pass\n"))
		require.NoError(t, err)
		o.Policies = policy.NewCatalog(map[string]*policy.Policy{"studio": p})
	})
	key := b.account("acme", 0)
	b.backend.answer(200, "twelve bytes")
	r := b.do(http.MethodHead, b.data+"/x", key, "")
	require.Equal(t, 200, r.StatusCode)
	require.EqualValues(t, 12, r.ContentLength)
	require.Equal(t, 200, b.do(http.MethodGet, b.data+"/anything", key, "").StatusCode, "unmatched: pass")
	require.Equal(t, 404, b.do(http.MethodHead, b.data+"/x/", key, "").StatusCode, "another spelling of an operation")
}
