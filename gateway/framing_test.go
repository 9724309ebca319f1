package gateway_test

import (
	"bufio"
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
)

// talk sends bytes on one connection and reads every answer until the gateway closes it.
func talk(t *testing.T, base, request string) (statuses []int, bodies []string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	r := bufio.NewReader(c)
	for {
		if _, err := r.Peek(1); err == io.EOF {
			return statuses, bodies
		}
		resp, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		statuses, bodies = append(statuses, resp.StatusCode), append(bodies, string(body))
	}
}

// framed is one request as bytes on the wire. What is refused is followed by a good request on the same connection,
// which must never be served.
type framed struct {
	line    string // POST /plain HTTP/1.1 if empty
	host    string // the Host line, "Host: gw\r\n" if empty, "-" for none
	rest    string // the other header lines, blank line and body; "\r\n" if empty
	refused bool
	alone   bool // served, and the connection is closed
}

func (f framed) bytes(auth string) string {
	line, host, rest := f.line, f.host, f.rest
	if line == "" {
		line = "POST /plain HTTP/1.1"
	}
	switch host {
	case "":
		host = "Host: gw\r\n"
	case "-":
		host = ""
	}
	if rest == "" {
		rest = "\r\n"
	}
	return line + "\r\n" + host + auth + rest
}

const key = "X-Api-Key: sk-acme\r\n"

// framings are RFC 9112's, §2 to §7, by what may have two readings.
func framings() map[string]framed {
	body := func(headers, body string) framed { return framed{rest: headers + "\r\n" + body} }
	bad := func(headers, body string) framed { return framed{rest: headers + "\r\n" + body, refused: true} }
	const chunked = "Transfer-Encoding: chunked\r\n"
	return map[string]framed{
		"plain":                     {},
		"length":                    body("Content-Length: 3\r\n", "abc"),
		"length, leading zeros":     body("Content-Length: 003\r\n", "abc"),
		"length, names in any case": body("cOnTENT-lENGTH: 3\r\n", "abc"),
		"chunked":                   body(chunked, "3\r\nabc\r\n0\r\n\r\n"),
		"chunked, in any case":      body("transfer-encoding: CHUNKED\r\n", "3\r\nabc\r\n0\r\n\r\n"),
		"chunked, extension":        body(chunked, "3;a=b\r\nabc\r\n0;c\r\n\r\n"),
		"chunked, trailer":          body(chunked, "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"),
		"chunked, a name as long":   body(chunked+"X-Forwarded-Proto: https\r\n", "3\r\nabc\r\n0\r\n\r\n"),
		"blank lines before":        {line: "\r\n\r\nPOST /plain HTTP/1.1"},
		"body on GET":               {line: "GET /credits/balance HTTP/1.1", rest: "Content-Length: 3\r\n\r\nabc"},
		"chunks on GET":             {line: "GET /credits/balance HTTP/1.1", rest: chunked + "\r\n3\r\nabc\r\n0\r\n\r\n", alone: true},
		"header with underscore":    body("Content_Length: 3\r\nTransfer_Encoding: chunked\r\n", ""),
		"absolute form":             {line: "POST http://gw/plain HTTP/1.1"},
		"absolute form, https":      {line: "POST HTTPS://gw:443/plain?x=1 HTTP/1.1"},
		"absolute form, other Host": {line: "POST http://gw/plain HTTP/1.1", host: "Host: other\r\n"},
		"absolute form, own route":  {line: "GET http://gw/credits/balance HTTP/1.1"},
		"host with port":            {host: "Host: gw.example:8080\r\n"},
		"host is an IPv6 address":   {host: "Host: [::1]:8080\r\n"},

		"length and chunked":        bad("Content-Length: 5\r\n"+chunked, "0\r\n\r\n"),
		"chunked and length":        bad(chunked+"Content-Length: 5\r\n", "0\r\n\r\n"),
		"length and identity":       bad("Content-Length: 3\r\nTransfer-Encoding: identity\r\n", "abc"),
		"two lengths":               bad("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"),
		"two equal lengths":         bad("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
		"list of lengths":           bad("Content-Length: 3, 3\r\n", "abc"),
		"length with a sign":        bad("Content-Length: +3\r\n", "abc"),
		"negative length":           bad("Content-Length: -3\r\n", "abc"),
		"length beyond int64":       bad("Content-Length: 18446744073709551619\r\n", "abc"),
		"hexadecimal length":        bad("Content-Length: 0x3\r\n", "abc"),
		"length with an underscore": bad("Content-Length: 0_3\r\n", "abc"),
		"empty length":              bad("Content-Length:\r\n", ""),
		"identity":                  bad("Transfer-Encoding: identity\r\n", "abc"),
		"identity and chunked":      bad("Transfer-Encoding: identity\r\n"+chunked, "0\r\n\r\n"),
		"gzip":                      bad("Transfer-Encoding: gzip\r\n", ""),
		"gzip, chunked":             bad("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
		"chunked, not last":         bad("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
		"chunked twice":             bad("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
		"two chunked lines":         bad(chunked+chunked, "0\r\n\r\n"),
		"empty coding":              bad("Transfer-Encoding:\r\n", "0\r\n\r\n"),
		"quoted coding":             bad("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
		"vertical tab in a coding":  bad("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
		"blank before the colon":    bad("Content-Length : 3\r\n", "abc"),
		"tab before the colon":      bad("Content-Length\t: 3\r\n", "abc"),
		"no colon":                  bad("Content-Length 3\r\n", "abc"),
		"no name":                   bad(": 3\r\n", ""),
		"blank in a name":           bad("X Y: 3\r\n", ""),
		"folded line":               bad("X-Long: a\r\n b\r\n", ""),
		"folded first line":         {host: " Host: gw\r\n", refused: true},
		"folded length":             bad("X-Long: a\r\n\tContent-Length: 3\r\n", ""),
		"line without CR":           bad("X-A: 1\nContent-Length: 3\r\n", "abc"),
		"CR alone":                  bad("X-A: 1\rContent-Length: 3\r\n", ""),
		"NUL in a value":            bad("X-A: a\x00b\r\n", ""),
		"NUL in a name":             bad("X\x00A: b\r\n", ""),
		"DEL in a value":            bad("X-A: a\x7fb\r\n", ""),
		"chunk size with a sign":    bad(chunked, "+3\r\nabc\r\n0\r\n\r\n"),
		"negative chunk size":       bad(chunked, "-3\r\nabc\r\n0\r\n\r\n"),
		"chunk size, 0x":            bad(chunked, "0x3\r\nabc\r\n0\r\n\r\n"),
		"chunk size, underscore":    bad(chunked, "0_3\r\nabc\r\n0\r\n\r\n"),
		"chunk size too long":       bad(chunked, "00000000000000000003\r\nabc\r\n0\r\n\r\n"),
		"chunk size overflows":      bad(chunked, "10000000000000003\r\nabc\r\n0\r\n\r\n"),
		"no chunk size":             bad(chunked, "\r\nabc\r\n0\r\n\r\n"),
		"chunk size without CR":     bad(chunked, "3\nabc\r\n0\r\n\r\n"),
		"chunk without CR":          bad(chunked, "3\r\nabc\n0\r\n\r\n"),
		"chunk too long":            bad(chunked, "3\r\nabcd\r\n0\r\n\r\n"),
		"LF in a chunk extension":   bad(chunked, "3;a\nb\r\nabc\r\n0\r\n\r\n"),
		"CR in a chunk extension":   bad(chunked, "3;a\rb\r\nabc\r\n0\r\n\r\n"),
		"framing in a trailer":      bad(chunked, "0\r\nContent-Length: 3\r\n\r\n"),
		"identity in a trailer":     bad(chunked, "0\r\nAuthorization: Bearer sk-other\r\n\r\n"),
		"no host":                   {host: "-", refused: true},
		"empty host":                {host: "Host:\r\n", refused: true},
		"two hosts":                 {host: "Host: gw\r\nHost: gw\r\n", refused: true},
		"list of hosts":             {host: "Host: gw, other\r\n", refused: true},
		"host with a path":          {host: "Host: gw/plain\r\n", refused: true},
		"host with a user":          {host: "Host: acme@gw\r\n", refused: true},
		"host with a bad port":      {host: "Host: gw:80a\r\n", refused: true},
		"host with a query":         {host: "Host: gw?x\r\n", refused: true},
		"HTTP/0.9":                  {line: "POST /plain HTTP/0.9", refused: true},
		"HTTP/1.2":                  {line: "POST /plain HTTP/1.2", refused: true},
		"HTTP/2.0":                  {line: "POST /plain HTTP/2.0", refused: true},
		"HTTP/1.10":                 {line: "POST /plain HTTP/1.10", refused: true},
		"http/1.1":                  {line: "POST /plain http/1.1", refused: true},
		"no version":                {line: "POST /plain", refused: true},
		"HTTP/2 preface":            {line: "PRI * HTTP/2.0", refused: true},
		"two blanks":                {line: "POST  /plain HTTP/1.1", refused: true},
		"tab for a blank":           {line: "POST\t/plain HTTP/1.1", refused: true},
		"chunked in HTTP/1.0":       {line: "POST /plain HTTP/1.0", rest: chunked + "\r\n0\r\n\r\n", refused: true},
		"absolute form, no scheme":  {line: "POST ://gw/plain HTTP/1.1", refused: true},
		"absolute form, ftp":        {line: "POST ftp://gw/plain HTTP/1.1", refused: true},
		"absolute form, no host":    {line: "POST http:///plain HTTP/1.1", refused: true},
		"absolute form, a user":     {line: "POST http://acme@gw/plain HTTP/1.1", refused: true},
		"authority form":            {line: "CONNECT gw:80 HTTP/1.1", refused: true},
		"two keys":                  bad("X-Api-Key: sk-acme\r\n", ""),
		"two Authorizations":        bad("Authorization: Bearer sk-acme\r\nauthorization: Bearer sk-other\r\n", ""),
		"two equal Authorizations":  bad("Authorization: Bearer sk-acme\r\nAuthorization: Bearer sk-acme\r\n", ""),
		"two Idempotency-Keys":      bad("Idempotency-Key: a\r\nIdempotency-Key: a\r\n", ""),
		"two Content-Types":         bad("Content-Type: application/json\r\nContent-Type: text/plain\r\n", ""),
	}
}

// TestFramingHasOneReading: on the data plane a request that can be read in two ways is refused, its connection is
// closed, nothing is charged, and what follows on the connection is never taken for a request.
func TestFramingHasOneReading(t *testing.T) { //nolint:tparallel // the subtests share two accounts
	t.Parallel()
	b := setup(t)
	b.account("acme", 1000*meter.Credit)
	b.account("other", 1000*meter.Credit)
	next := "POST /plain HTTP/1.1\r\nHost: gw\r\nX-Api-Key: sk-other\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	for name, f := range framings() {
		t.Run(name, func(t *testing.T) {
			calls := b.backend.calls.Load()
			mine, _ := b.wallet("acme")
			others, _ := b.wallet("other")
			statuses, bodies := talk(t, b.data, f.bytes(key)+next)
			mineAfter, held := b.wallet("acme")
			othersAfter, _ := b.wallet("other")
			require.Zero(t, held)
			if f.alone {
				require.Equal(t, []int{200}, statuses, "%s", bodies)
				require.Equal(t, others, othersAfter)
				return
			}
			if !f.refused {
				require.Equal(t, []int{200, 200}, statuses, "%s", bodies)
				require.Equal(t, others-2*meter.Credit, othersAfter)
				return
			}
			require.Equal(t, []int{400}, statuses, "%s", bodies)
			require.Contains(t, bodies[0], `"code":"invalid-request"`)
			require.Equal(t, calls, b.backend.calls.Load(), "the backend saw a request")
			require.Equal(t, [2]meter.Credits{mine, others}, [2]meter.Credits{mineAfter, othersAfter})
		})
	}
}

// TestFramingOfTheControlPlane: the same table, for the other listener.
func TestFramingOfTheControlPlane(t *testing.T) { //nolint:tparallel // the subtests share an account
	t.Parallel()
	b := setup(t)
	b.house.add("acme")
	next := "PUT /v1/accounts/smuggled HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer " + adminToken +
		"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
	for name, f := range framings() {
		if strings.Contains(f.line, "/credits/") || strings.Contains(name, "two Authorizations") {
			continue // routes of the data plane; its own two tokens stand below
		}
		f.line = strings.ReplaceAll(f.line, "POST ", "GET ")
		f.line = strings.ReplaceAll(strings.ReplaceAll(f.line, "/plain?x=1", "/plain"), "/plain", "/v1/accounts/acme")
		if f.line == "" {
			f.line = "GET /v1/accounts/acme HTTP/1.1"
		}
		f.rest = strings.ReplaceAll(f.rest, "Authorization: Bearer sk-acme", "Authorization: Bearer "+adminToken)
		t.Run(name, func(t *testing.T) {
			b.house.forget("smuggled")
			statuses, bodies := talk(t, b.admin, f.bytes("X-Api-Key: none\r\nAuthorization: Bearer "+adminToken+"\r\n")+next)
			_, err := b.house.AccountState(t.Context(), "smuggled")
			if !f.refused {
				require.Equal(t, []int{200, 201}, statuses, "%s", bodies)
				require.NoError(t, err)
				return
			}
			require.Equal(t, []int{400}, statuses, "%s", bodies)
			require.ErrorIs(t, err, meter.ErrNoAccount)
		})
	}
	for _, twice := range []string{
		"Authorization: Bearer " + adminToken + "\r\n", "X-Actor: a\r\nX-Actor: a\r\n",
	} {
		statuses, bodies := talk(t, b.admin, "GET /v1/accounts/acme HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer "+adminToken+
			"\r\n"+twice+"\r\n")
		require.Equal(t, []int{400}, statuses, "%s", bodies)
	}
}

// TestBodyIsNotTheNextRequest: from a trusted peer, a body with both framings carried a request of another account.
func TestBodyIsNotTheNextRequest(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *gateway.Options) { o.TrustedPeers = []string{"127.0.0.0/8"} })
	b.account("acme", 10*meter.Credit)
	b.account("victim", 10*meter.Credit)
	inner := "POST /plain HTTP/1.1\r\nHost: gw\r\nX-Account-Id: victim\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	body := "0\r\n\r\n" + inner
	statuses, _ := talk(t, b.data, "POST /plain HTTP/1.1\r\nHost: gw\r\nX-Account-Id: acme\r\nTransfer-Encoding: chunked\r\n"+
		"Content-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
	require.Equal(t, []int{400}, statuses)
	require.Zero(t, b.backend.calls.Load())
	for _, account := range []string{"acme", "victim"} {
		available, held := b.wallet(account)
		require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held}, account)
	}
}

// TestAbsoluteForm: the target's host is the request's, whatever Host says, and the backend gets the origin form.
func TestAbsoluteForm(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	var uri, host string
	b.backend.on(func(ctx *fasthttp.RequestCtx) {
		uri = string(ctx.Request.Header.RequestURI())
		host = string(ctx.Request.Header.Peek("X-Forwarded-Host"))
	})
	resp := b.raw("POST http://shop.example:8080/plain?x=1 HTTP/1.1\r\nHost: other\r\n" + key + "Content-Length: 0\r\n\r\n")
	require.Equal(t, 200, resp.StatusCode, "%s", resp.body)
	require.Equal(t, "/plain?x=1", uri)
	require.Equal(t, "shop.example:8080", host)
	for _, target := range []string{"http://gw", "http://gw?x=1", "http://gw//plain", "http://gw#x"} {
		resp := b.raw("POST " + target + " HTTP/1.1\r\nHost: gw\r\n" + key + "Content-Length: 0\r\n\r\n")
		require.Contains(t, []int{400, 404}, resp.StatusCode, target)
	}
}

// TestTrailersAreNotHeaders: a trailer names no account, prices nothing and reaches no backend (RFC 9110 §6.5.1).
func TestTrailersAreNotHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 10*meter.Credit)
	got := b.backend.echo()
	for range 2 {
		resp := b.raw("POST /plain HTTP/1.1\r\nHost: gw\r\n" + key + "Transfer-Encoding: chunked\r\n\r\n" +
			"3\r\nabc\r\n0\r\nIdempotency-Key: k\r\nX-Quality: high\r\nVia: 1.0 edge\r\n\r\n")
		require.Equal(t, 200, resp.StatusCode, "%s", resp.body)
		require.Empty(t, resp.Header.Get("Idempotent-Replayed"))
		require.NotContains(t, got, "X-Quality")
		require.Equal(t, []string{"1.1 creditgate"}, got["Via"])
	}
	resp, bodies := talk(t, b.admin, "PUT /v1/accounts/new HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer "+adminToken+"\r\n"+
		"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nIdempotency-Key: not a ref\r\n\r\n")
	require.Equal(t, []int{201}, resp, "%s", bodies)
}

// TestConnectionClose: a client that says close, in whatever company or case, gets its connection closed.
func TestConnectionClose(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 100*meter.Credit)
	for _, lines := range []string{
		"Connection: close\r\n", "Connection: Close\r\n", "Connection: te, close\r\n",
		"Connection: close\r\nConnection: keep-alive\r\n",
	} {
		one := "POST /plain HTTP/1.1\r\nHost: gw\r\n" + key + lines + "Content-Length: 0\r\n\r\n"
		statuses, _ := talk(t, b.data, one+one)
		require.Equal(t, []int{200}, statuses, lines)
	}
}

// TestExpectOfHTTP10: an HTTP/1.0 client, which knows no interim answer, gets one answer to its request.
func TestExpectOfHTTP10(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.account("acme", 100*meter.Credit)
	const expect = "Host: gw\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
	statuses, _ := talk(t, b.data, "POST /plain HTTP/1.0\r\n"+key+expect+"\r\n{}")
	require.Equal(t, []int{200}, statuses)
	statuses, _ = talk(t, b.data, "POST /plain HTTP/1.0\r\nConnection: keep-alive\r\n"+key+expect+"\r\n{}"+
		"POST /plain HTTP/1.0\r\n"+key+expect+"\r\n{}")
	require.Equal(t, []int{200, 200}, statuses)
	statuses, _ = talk(t, b.admin, "PUT /v1/accounts/new HTTP/1.0\r\nAuthorization: Bearer "+adminToken+"\r\n"+expect+"\r\n{}")
	require.Equal(t, []int{201}, statuses)
	statuses, _ = talk(t, b.data, "POST /plain HTTP/1.1\r\nConnection: close\r\n"+key+expect+"\r\n{}")
	require.Equal(t, []int{100, 200}, statuses)
}
