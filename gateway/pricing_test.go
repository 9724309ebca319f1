package gateway_test

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/gateway"
	"creditgate/meter"
	"creditgate/meter/policy"
)

// What is priced is what the backend reads: each test sends something that two readers could take differently.

const mixedPolicy = `
name: studio
buckets: [promo, monthly, purchased]
operations:
  apply:
    match: POST /studio/apply
    units: len(body.photos) ?? len(parts.photos)
    max: 50
    credits: 1
  generate:
    match: POST /v1/images/generations
    units: body.n ?? 1
    max: 10
    credits: 1
  form:
    match: POST /form
    units: int(form.n) ?? 1
    max: 10
    credits: '{"cheap": 1, "ultra": 5}[form.model ?? "ultra"]'
  query:
    match: GET /query
    units: int(query.n) ?? 1
    max: 10
    credits: '{"cheap": 1, "ultra": 5}[query.model ?? "ultra"]'
  model:
    match: POST /model
    credits: '{"cheap": 1, "alike": 1, "ultra": 5}[header["x-model"] ?? "ultra"]'
  steps:
    match: POST /steps
    credits: min(body.steps, 100) * 0.1
  plain:
    match: POST /plain
    credits: 2
  revert:
    match: POST /studio/revert
    credits: 0
unmatched: %s
`

// mixed is a policy that prices by every part of a request.
func mixed(unmatched string) func(*gateway.Options) {
	return func(o *gateway.Options) {
		p, err := policy.Parse("mixed.yaml", fmt.Appendf(nil, mixedPolicy, unmatched))
		if err != nil {
			panic(err)
		}
		o.Policies = policy.NewCatalog(map[string]*policy.Policy{"studio": p})
	}
}

// refused says that nothing reached the backend, or else what was charged for it.
func (b *bundle) refused(t *testing.T, status int, what string, r *reply) {
	t.Helper()
	require.Equal(t, status, r.StatusCode, "%s: charged %q, backend saw %q", what, r.Header.Get("X-Credits-Charged"), r.body)
	require.Zero(t, b.backend.calls.Swap(0), "%s: the backend was called", what)
}

func lines(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// Go's mime lets boundary*= replace boundary=; fasthttp, busboy and formidable do not.
func TestBoundaryIsOneForEveryReader(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.backend.on(func(ctx *fasthttp.RequestCtx) { // as bench/studio/parse.go reads it
		boundary := string(ctx.Request.Header.MultipartFormBoundary())
		form, err := multipart.NewReader(bytes.NewReader(ctx.PostBody()), boundary).ReadForm(1 << 20)
		if err != nil {
			ctx.Error(err.Error(), 400)
			return
		}
		fmt.Fprintf(ctx, "%d photos", len(form.File["photos"]))
	})
	photo := "Content-Disposition: form-data; name=\"photos\"; filename=\"x.png\"\n\nPNG\n"
	body := lines("--b\n" + photo + strings.Repeat("--a\n"+photo, 40) + "--a--\n--b--\n")
	b.refused(t, 400, "boundary*", b.post("/studio/apply", key, body,
		"Content-Type", "multipart/form-data; boundary=a; boundary*=utf-8''b"))
}

// The same with charset*=: express.json() decodes UTF-7 and finds n twice, the last being 10.
func TestCharsetIsOneForEveryReader(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.refused(t, 400, "charset*", b.post("/v1/images/generations", key,
		`{"n":1,"x":"+ACI-,+ACI-n+ACI-:10,+ACI-y+ACI-:+ACI-"}`,
		"Content-Type", "application/json; charset=utf-7; charset*=us-ascii''utf-8"))
}

// Qs (Express' default) reads [n]=10 as n=10, and nothing beyond the 1000th pair; node:querystring neither.
func TestQueryIsOneForEveryReader(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.refused(t, 400, "[n]", b.do("GET", b.data+"/query?model=cheap&[n]=10", key, ""))
	b.refused(t, 400, "1001st", b.do("GET", b.data+"/query?"+strings.Repeat("a&", 1000)+"model=cheap", key, ""))
	b.refused(t, 400, "[n] in a form", b.post("/form", key, "model=cheap&[n]=10",
		"Content-Type", "application/x-www-form-urlencoded"))
}

// A computed price of zero does not make a priced operation free.
func TestComputedZeroIsNotFree(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.refused(t, 400, "steps 0", b.post("/steps", key, `{"steps":0}`)) // Node: steps || 30
	key = b.account("poor", 0)
	b.refused(t, 400, "steps 0 without any credit", b.post("/steps", key, `{"steps":0}`))
}

// What passes unpriced has no priced path, in whatever method: a backend may not distinguish them.
func TestPassIsNotForAnotherMethod(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("pass"))
	key := b.account("poor", 0)
	b.refused(t, 404, "PUT", b.do("PUT", b.data+"/plain", key, "{}"))
	b.refused(t, 404, "HEAD for GET", b.do("HEAD", b.data+"/query", key, ""))
}

// `\bname=` is how formidable finds the name of a part.
func TestDispositionIsOneForEveryReader(t *testing.T) {
	t.Parallel()
	b := setup(t, mixed("refuse"))
	key := b.account("acme", 100*meter.Credit)
	b.refused(t, 400, "name in a parameter", b.post("/form", key, lines(`--b
Content-Disposition: form-data; x="name=n"; name="zzz"

10
--b--
`), "Content-Type", "multipart/form-data; boundary=b"))
	b.refused(t, 400, "a field busboy takes for a file", b.post("/form", key, lines(`--b
Content-Disposition: form-data; name="model"
Content-Type: application/octet-stream

cheap
--b--
`), "Content-Type", "multipart/form-data; boundary=b"))
}
