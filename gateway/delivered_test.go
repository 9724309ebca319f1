package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/policy"
)

// askAll is a request that each counted operation of the shipped policies takes, at the price of one unit.
const askAll = `{"n":1,"prompt":"a fox","photos":[{"id":"a","image":"aW1hZ2U="}],"background":"#ffffff"}`

// answered is what a backend says of a failure in its own way.
type answered struct {
	status         int
	kind, encoding string
	body           string
}

func (a answered) serve(ctx *fasthttp.RequestCtx) {
	ctx.SetStatusCode(a.status)
	ctx.Response.Header.SetNoDefaultContentType(true)
	ctx.SetContentType(a.kind)
	if a.encoding != "" {
		ctx.Response.Header.Set("Content-Encoding", a.encoding)
	}
	ctx.Response.Header.Set("X-Backend", "its own")
	ctx.Response.Header.Set("Retry-After", "7")
	ctx.SetBodyString(a.body)
}

func failures() map[string]answered {
	zipped := string(fasthttp.AppendGzipBytes(nil, []byte(`{"error":{"message":"no such model"}}`)))
	return map[string]answered{
		"a 4xx in gzip":        {422, "application/json", "gzip", zipped},
		"a 5xx in gzip":        {500, "application/json", "gzip", zipped},
		"a 4xx in br":          {404, "text/html", "br", "\x0b\x02\x80"},
		"a 200 with an error":  {200, "application/json", "", `{"error":{"code":"moderation_blocked"}}`},
		"a 201 with a text":    {201, "text/plain; charset=utf-8", "", "I cannot draw that."},
		"a 200 with a page":    {200, "text/html", "", "<h1>Too busy</h1>"},
		"a 204":                {204, "", "", ""},
		"an empty 200":         {200, "image/png", "", ""},
		"an empty 200 in gzip": {200, "application/json", "gzip", ""},
	}
}

// TestFailureOfTheBackendPasses: what a backend says of its failure reaches the client byte for byte, costs nothing, and
// leaves the Idempotency-Key to a new attempt. This goes for every counted operation of the shipped policies.
func TestFailureOfTheBackendPasses(t *testing.T) {
	t.Parallel()
	counted := 0
	for _, name := range policy.Examples() {
		src, err := policy.Example(name)
		require.NoError(t, err)
		pol, err := policy.Parse(name, src)
		require.NoError(t, err)
		b := setup(t, func(o *gateway.Options) {
			o.Policies = policy.NewCatalog(map[string]*policy.Policy{"studio": pol})
		})
		key := b.account("acme", 10*meter.Credit)
		for _, op := range pol.Operations {
			if !op.NeedsResponse() {
				continue
			}
			counted++
			for what, a := range failures() {
				what = name + " " + op.Name + ": " + what
				b.backend.on(a.serve)
				for range 2 { // the second one is a new attempt, not a replay
					calls := b.backend.calls.Load()
					r := b.post(op.Path, key, askAll, "Accept-Encoding", "gzip, br", "Idempotency-Key", strings.ReplaceAll(what, " ", "-"))
					require.Equal(t, a.status, r.StatusCode, "%s: %s", what, r.body)
					require.Equal(t, a.body, string(r.body), what)
					require.Equal(t, [4]string{a.kind, a.encoding, "its own", "7"}, [4]string{
						r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"), r.Header.Get("X-Backend"), r.Header.Get("Retry-After"),
					}, what)
					require.Empty(t, r.Header.Get("X-Should-Retry"), "%s: the backend's answer, not ours", what)
					require.Empty(t, r.Header.Get("Idempotent-Replayed"), what)
					require.Equal(t, "0", r.Header.Get("X-Credits-Charged"), what)
					require.Equal(t, "10", r.Header.Get("X-Credits-Remaining"), what)
					require.Equal(t, calls+1, b.backend.calls.Load(), what)
					available, held := b.wallet("acme")
					require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held}, what)
				}
			}
			require.Contains(t, b.scrape(), fmt.Sprintf("creditgate_requests_total{operation=%q,outcome=\"released\"} %d",
				op.Name, 2*len(failures())))
		}
	}
	require.Positive(t, counted)
}

func (b *bundle) scrape() string {
	b.t.Helper()
	return string(b.do(http.MethodGet, b.admin+"/metrics", "", "").body)
}

// TestUncountableAnswerIsWithheld: an answer that may hold the result in another shape is not given away. The problem says
// what the backend answered, and the operator finds the rule at fault in the log, and the count in a metric.
func TestUncountableAnswerIsWithheld(t *testing.T) {
	t.Parallel()
	log := &syncBuffer{}
	b := setup(t, func(o *gateway.Options) {
		o.Log = zerolog.New(log)
		o.ResponseBufferMax = 4 << 10
	})
	key := b.account("acme", 10*meter.Credit)
	const series = `creditgate_requests_total{operation="generate",outcome="upstream-uncountable"} `
	require.Contains(t, b.scrape(), series+"0\n", "there before the first, for an alert on its increase")
	picture := `{"data":[{"b64_json":"secret"}]}`
	seen := 0
	for name, a := range map[string]answered{
		"another shape":         {200, "application/json", "", `{"images":["secret"]}`},
		"no error":              {200, "application/json", "", `{"error":null,"images":["secret"]}`},
		"an error that is none": {200, "application/json", "", `{"error":"","images":["secret"]}`},
		"JSON called text":      {200, "text/plain", "", `{"images":["secret"]}`},
		"a picture":             {203, "image/png", "", "\x89PNGsecret"},
		"events":                {200, "text/event-stream", "", "data: secret\n\n"},
		"no type":               {200, "", "", "secret"},
		"encoded":               {200, "application/json", "gzip", string(fasthttp.AppendGzipBytes(nil, []byte(picture)))},
		"beyond the buffer":     {200, "application/json", "", picture[:len(picture)-1] + strings.Repeat(" ", 8<<10) + "}"},
		"a long type":           {200, strings.Repeat("x", 300), "", "secret"},
	} {
		b.backend.on(a.serve)
		r := b.post("/v1/images/generations", key, `{"n":1}`, "Accept-Encoding", "gzip", "Idempotency-Key", "k")
		seen++
		require.Equal(t, 502, r.StatusCode, "%s: %s", name, r.body)
		p := r.json(t)
		require.Equal(t, "upstream-uncountable", p["code"], name)
		require.InDelta(t, a.status, p["upstream_status"], 0, name)
		require.Equal(t, a.kind[:min(len(a.kind), 100)], p["upstream_content_type"], name)
		require.Equal(t, "false", r.Header.Get("X-Should-Retry"), "%s: a repeat would be withheld too", name)
		require.Empty(t, r.Header.Get("Retry-After"), name)
		require.Equal(t, "0", r.Header.Get("X-Credits-Charged"), name)
		require.NotContains(t, string(r.body), "secret", name)
		require.Empty(t, r.Header.Get("X-Backend"), name)
		available, held := b.wallet("acme")
		require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held}, name)
		require.Contains(t, b.scrape(), fmt.Sprintf("%s%d\n", series, seen), name)
		require.Contains(t, log.String(), r.Header.Get("X-Request-ID"), name)
	}
	line, _, _ := strings.Cut(log.String(), "\n")
	require.Contains(t, line, `"operation":"generate"`)
	require.Contains(t, line, `"delivered":"len(response.data)"`)
	require.NotContains(t, log.String(), "secret")

	b.backend.answer(200, picture)
	require.Equal(t, "1", b.post("/v1/images/generations", key, `{"n":1}`, "Idempotency-Key", "k").Header.Get("X-Credits-Charged"))
}

// TestUntypedAnswerStaysUntyped: a type that the backend did not send would make a client read the body in another way.
func TestUntypedAnswerStaysUntyped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	b.backend.on(answered{200, "", "", "\x00picture"}.serve)
	for _, route := range []string{"/plain", "/studio/revert"} {
		for range 2 { // the second one of a priced route is a replay
			r := b.post(route, key, "", "Idempotency-Key", "k")
			require.Equal(t, "\x00picture", string(r.body))
			require.Empty(t, r.Header.Values("Content-Type"), route)
		}
	}
}

// TestLargeFailurePasses: a failure beyond the buffer is passed on as it comes; only a 2xx has to be counted.
func TestLargeFailurePasses(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.ResponseBufferMax = 4 << 10 })
	key := b.account("acme", 10*meter.Credit)
	large := strings.Repeat("why ", 32<<10)
	b.backend.answer(422, large)
	r := b.post("/v1/images/generations", key, `{"n":1}`)
	require.Equal(t, 422, r.StatusCode)
	require.Equal(t, large, string(r.body))
	require.Equal(t, "0", r.Trailer.Get("X-Credits-Charged"))
	require.Eventually(t, func() bool {
		available, held := b.wallet("acme")
		return available == 10_000 && held == 0
	}, 20*time.Second, time.Millisecond)

	old := b.raw("POST /v1/images/generations HTTP/1.0\r\nHost: gw\r\nX-Api-Key: " + key +
		"\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"n\":1}")
	require.Equal(t, 502, old.StatusCode)
	p := old.json(t)
	require.Equal(t, "upstream-failed", p["code"])
	require.InDelta(t, 422, p["upstream_status"], 0)
	require.Equal(t, "false", old.Header.Get("X-Should-Retry"))
}

// TestTextIsNotForTheAsking: a text passes as a failure, so a client cannot make a backend that negotiates give it the
// result as one.
func TestTextIsNotForTheAsking(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 100*meter.Credit)
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		if strings.Contains(strings.ToLower(string(ctx.Request.Header.Peek("Accept"))), "text/") {
			ctx.SetContentType("text/plain")
			ctx.SetBodyString("picture")
			return
		}
		ctx.SetContentType("application/json")
		ctx.SetBodyString(`{"data":["picture"]}`)
	})
	for _, accept := range []string{"text/plain", "Text/HTML", "application/json, text/plain, */*", "application/json"} {
		r := b.post("/v1/images/generations", key, `{"n":1}`, "Accept", accept)
		require.Equal(t, "1", r.Header.Get("X-Credits-Charged"), "%s: %s", accept, r.body)
	}
	require.Equal(t, "picture", string(b.post("/plain", key, "", "Accept", "text/plain").body), "nothing is counted in it")
}
