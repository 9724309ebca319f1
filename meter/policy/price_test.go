package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPriceJSON(t *testing.T) {
	t.Parallel()
	o := operation(t, "units: body.n ?? 1", "max: 10", "credits: 0.25")
	f := func(body, want string) {
		t.Helper()
		require.Equal(t, want, price(o, jsonRequest(body)), body)
	}
	f(`{"n":3}`, "3 × 0.25 = 0.75")
	f(`{}`, "1 × 0.25 = 0.25")
	f(``, "1 × 0.25 = 0.25")
	f(`{"n":null}`, "1 × 0.25 = 0.25")
	f(` { "m" : [1.5e3, {"n": 7}], "n" : 10 } `, "10 × 0.25 = 2.5")
	f(`{"\u006e":2}`, "2 × 0.25 = 0.5")
	f(`{"prompt":"say \"n\": 9 \\","n":2}`, "2 × 0.25 = 0.5")

	f(`{"n":11}`, "too many units (body.n): body.n asks for 11; one request may have at most 10.")
	f(`{"n":0}`, "invalid request (body.n): body.n asks for 0; ask for 1 to 10.")
	whole := "; write a whole number from 0 to 67108863, without sign, point or exponent."
	f(`{"n":2.0}`, "invalid request (body.n): body.n is 2.0"+whole)
	f(`{"n":1e1}`, "invalid request (body.n): body.n is 1e1"+whole)
	f(`{"n":-1}`, "invalid request (body.n): body.n is -1"+whole)
	f(`{"n":-0}`, "invalid request (body.n): body.n is -0"+whole)
	f(`{"n":67108864}`, "invalid request (body.n): body.n is 67108864"+whole)
	f(`{"n":18446744073709551617}`, "invalid request (body.n): body.n is 18446744073709551617"+whole)
	f(`{"n":"4"}`, `invalid request (body.n): The units come to "4", which is not a whole number.`)
	f(`{"n":true}`, "invalid request (body.n): The units come to true, which is not a whole number.")
	f(`{"n":[1]}`, "invalid request (body.n): body.n must be a plain value.")
	f(`{"n":{}}`, "invalid request (body.n): body.n must be a plain value.")
	f(`[1]`, "invalid request (body): body must be an object.")
	f(`3`, "invalid request (body): body must be an object.")

	f(`{"n":1,"n":1}`, "ambiguous price (body.n): body.n is there twice; send it once.")
	f(`{"n":1,"\u006e":1}`, "ambiguous price (body.n): body.n is there twice; send it once.")
	f(`{"n":null,"n":9}`, "ambiguous price (body.n): body.n is there twice; send it once.")
	f(`{"n":1,"N":9}`, `ambiguous price (body.n): body.n is also sent as "N"; send it once, as "n".`)
	f(`{"N":9}`, `ambiguous price (body.n): body.n is also sent as "N"; send it once, as "n".`)
	f(`{"n\u0000x":9}`, `ambiguous price (body.n): body.n is also sent as "n\x00x"; send it once, as "n".`)
	f("{\"n\xff\":9}", `ambiguous price (body.n): body.n is also sent as "n\xff"; send it once, as "n".`)

	f(`{"n":1`, "invalid request (): The body is not valid JSON at byte 6: expected a comma or \"}\".")
	f(`{"n":1}x`, "invalid request (): The body is not valid JSON at byte 7: text after the end.")
	f(`{"n":01}`, "invalid request (): The body is not valid JSON at byte 6: expected a comma or \"}\".")
	f(`{"a":tru,"n":1}`, "invalid request (): The body is not valid JSON at byte 5: expected true.")
	f(`{'n':1}`, "invalid request (): The body is not valid JSON at byte 1: expected a name in quotes.")
	f("\xef\xbb\xbf{}", "invalid request (): The body is not valid JSON at byte 0: expected a value.")
	f(" ", "invalid request (): The body is not valid JSON at byte 1: expected a value.")
	f(`{"a":"`+"\n"+`"}`, "invalid request (): The body is not valid JSON at byte 6: a text has a control character.")
	f(`{"a":`+strings.Repeat("[", 64)+strings.Repeat("]", 64)+`}`,
		"invalid request (): The body is not valid JSON at byte 69: more than 64 levels deep.")
}

func TestPriceExpressions(t *testing.T) {
	t.Parallel()
	f := func(rules, body, want string) {
		t.Helper()
		o := operation(t, strings.Split(rules, " | ")...)
		require.Equal(t, want, price(o, jsonRequest(body)), "%s on %s", rules, body)
	}
	model := `credits: '{"turbo": 20, "pro": 38, "ultra": 80}[body.model]'`
	f(model, `{"model":"pro"}`, "1 × 38 = 38")
	f(model, `{"model":"free"}`, `invalid request (body.model): There is no price for body.model "free".`)
	f(model, `{"model":"PRO"}`, `invalid request (body.model): There is no price for body.model "PRO".`)
	f(model, `{"model":3}`,
		`invalid request (body.model): The price cannot be computed from body.model 3, which is of another kind.`)
	f(model, `{}`, "invalid request (body.model): body.model is missing; the price depends on it.")
	f(model, ``, "invalid request (body.model): body.model is missing; the price depends on it.")
	f(model, `{"model":{"a":1}}`, "invalid request (body.model): body.model must be a plain value.")

	f(`credits: 'body.hd == true ? 0.5 : 0.1 * 3'`, `{}`, "1 × 0.3 = 0.3")
	f(`credits: 'body.logo != nil ? 2 : 1'`, `{"logo":{"a":[1,2]}}`, "1 × 2 = 2")
	f(`credits: 'body.logo != nil ? 2 : 1'`, `{"logo":null}`, "1 × 1 = 1")
	f(`credits: 'min(body.w * body.h / 1000000, 10)'`, `{"w":1000,"h":1500}`, "1 × 1.5 = 1.5")
	f(`credits: 'min(body.w * body.h / 1000000, 10)'`, `{"w":67108863,"h":67108863}`, "1 × 10 = 10")
	f(`credits: 'body.preview == true ? 0 : 1'`, `{"preview":true}`, "invalid request (body.preview): The price comes to 0 credits, "+
		"and this operation is not free; the least is 0.001.")
	f(`units: len(body.photos) | max: 3 | credits: 1`, `{"photos":[1,"a",{}]}`, "3 × 1 = 3")
	f(`units: len(body.photos) | max: 3 | credits: 1`, `{"photos":[1,1,1,1]}`,
		"too many units (body.photos): body.photos asks for 4; one request may have at most 3.")
	f(`units: len(body.photos) | max: 3 | credits: 1`, `{"photos":[]}`,
		"invalid request (body.photos): body.photos asks for 0; ask for 1 to 3.")
	f(`units: len(body.photos) | max: 3 | credits: 1`, `{}`,
		"invalid request (body.photos): body.photos is missing; the price depends on it.")
	f(`units: len(body.photos) | max: 3 | credits: 1`, `{"photos":"abc"}`,
		"invalid request (body.photos): body.photos must be a list.")
	f(`units: sum(body.items, .n) | max: 9 | credits: 1`, `{"items":[{"n":2,"x":"y"},{"n":3}]}`, "5 × 1 = 5")
	f(`units: sum(body.items, .n) | max: 9 | credits: 1`, `{"items":[{"n":2},{"n":3,"N":1}]}`,
		`ambiguous price (body.items[].n): body.items[].n is also sent as "N"; send it once, as "n".`)
	f(`units: (body.batch_size ?? 1) * (body.n_iter ?? 1) | max: 100 | credits: 1`, `{"batch_size":4,"n_iter":3}`, "12 × 1 = 12")
	f(`units: (body.batch_size ?? 1) * (body.n_iter ?? 1) | max: 100 | credits: 1`, `{"batch_size":67108863,"n_iter":67108863}`,
		"too many units (body.batch_size): body.batch_size asks for 4503599493152769; one request may have at most 100.")
	f(`units: 'let o = body.options; o?.n ?? 2' | max: 9 | credits: 1`, `{"options":{"n":4}}`, "4 × 1 = 4")
	f(`units: 'let o = body.options; o?.n ?? 2' | max: 9 | credits: 1`, `{}`, "2 × 1 = 2")
	f(`units: body.options.n | max: 9 | credits: 1`, `{"options":{"n":4}}`, "4 × 1 = 4")
	f(`units: body.options.n | max: 9 | credits: 1`, `{}`,
		"invalid request (body.options): body.options is missing; the price depends on it.")
	f(`units: body.options.n | max: 9 | credits: 1`, `{"options":4}`,
		"invalid request (body.options): body.options must be an object.")
	f(`units: body.list[1].n | max: 9 | credits: 1`, `{"list":[{},{"n":3}]}`, "3 × 1 = 3")
	f(`units: 'body.kind in ["a", "b"] ? 2 : 1' | max: 9 | credits: 1`, `{"kind":"b"}`, "2 × 1 = 2")
	f(`units: '"hd" in body.tags ? 2 : 1' | max: 9 | credits: 1`, `{"tags":["x","hd"]}`, "2 × 1 = 2")
	f(`units: ceil(body.px / 100) | max: 9 | credits: 1`, `{"px":101}`, "2 × 1 = 2")
	f(`units: body.n / 2 | max: 9 | credits: 1`, `{"n":3}`,
		"invalid request (body.n): The units come to 1.5, which is not a whole number.")
	f(`units: body.n | max: 9 | credits: 1`, `{"n":"`+strings.Repeat("9", 2000)+`"}`,
		"invalid request (body.n): body.n has 2002 bytes; at most 1024 are read.")
	f(`credits: body.n / 10000`, `{"n":5}`, "1 × 0.001 = 0.001")
	f(`credits: body.n / 10000`, `{"n":4}`, "invalid request (body.n): The price comes to 0.0004 credits, and this operation "+
		"is not free; the least is 0.001.")
	f(`units: 4 | credits: 1`, `not even JSON`, "4 × 1 = 4")
	f(`credits: 0`, `not even JSON`, "0 × 0 = 0")
}

func TestPriceTexts(t *testing.T) {
	t.Parallel()
	f := func(rules string, r Request, want string) {
		t.Helper()
		o := operation(t, strings.Split(rules, " | ")...)
		require.Equal(t, want, price(o, r), rules)
	}
	query := func(q string) Request { return Request{Query: []byte(q)} }
	n := "units: int(query.n) ?? 1 | max: 9 | credits: 1"
	f(n, query("n=3&x=%20"), "3 × 1 = 3")
	f(n, query("a=b"), "1 × 1 = 1")
	f(n, query("%6e=3"), "3 × 1 = 3")
	f(n, query("n=3&n=3"), "ambiguous price (query.n): query.n is there twice; send it once.")
	f(n, query("N=3"), `ambiguous price (query.n): query.n is also sent as "N"; send it once, as "n".`)
	f(n, query("n[]=3"), `ambiguous price (query.n): query.n is also sent as "n[]"; send it once, as "n".`)
	require.Contains(t, price(operation(t, strings.Split(n, " | ")...), query(strings.Repeat("+", 2000)+"n=3")), "ambiguous price")
	f(n, query(strings.Repeat("n", 2000)+"=3"), "1 × 1 = 1")
	f(n, query("[n]=3"), `ambiguous price (query.n): query.n is also sent as "[n]"; send it once, as "n".`)
	f(n, query(strings.Repeat("a&", 255)+"n=3"), "3 × 1 = 3")
	f(n, query(strings.Repeat("a&", 256)+"n=3"),
		"invalid request (): The query has more than 256 names; this request is priced by it, so send fewer.")
	f(n, query("+n=3"), `ambiguous price (query.n): query.n is also sent as " n"; send it once, as "n".`)
	f(n, query("n%00a=3"), `ambiguous price (query.n): query.n is also sent as "n\x00a"; send it once, as "n".`)
	f(n, query("a=1;n=3"), `invalid request (): The query has "a=1;n=3", which is not urlencoded; write % and ; as %25 and %3B.`)
	f(n, query("%zz=3"), `invalid request (): The query has "%zz=3", which is not urlencoded; write % and ; as %25 and %3B.`)
	for _, bad := range []string{"04", "%2B4", "-4", "4.0", "4+", "", "1e1", "99999999999"} {
		require.Contains(t, price(operation(t, strings.Split(n, " | ")...), query("n="+bad)), "write a whole number from 0 to", bad)
	}

	h := `credits: '{"hd": 2, "sd": 1}[header["X-Quality"]]'`
	f(h, Request{Header: header("x-quality: hd")}, "1 × 2 = 2")
	f(h, Request{Header: header("X-Quality: hd", "X-QUALITY: sd")},
		"ambiguous price (header.x-quality): header.x-quality is there twice; send it once.")
	f(h, Request{Header: header("X_Quality: sd")},
		`ambiguous price (header.x-quality): header.x-quality is sent as "X_Quality"; send it once, as "x-quality".`)
	f(h, Request{}, "invalid request (header.x-quality): header.x-quality is missing; the price depends on it.")

	form := func(b string) Request {
		return Request{Header: header("Content-Type: application/x-www-form-urlencoded; charset=UTF-8"), Body: []byte(b)}
	}
	f("units: int(form.n) | max: 9 | credits: 1", form("n=4"), "4 × 1 = 4")
	f("units: int(form.n) | max: 9 | credits: 1", form("n=4&n=1"),
		"ambiguous price (form.n): form.n is there twice; send it once.")
	f("units: int(form.n) | max: 9 | credits: 1", form(""),
		"invalid request (form.n): form.n is missing; the price depends on it.")
}

func TestPricePath(t *testing.T) {
	t.Parallel()
	p := parse(t, `  x:
    match: POST /v1/{engine}/images/{n}
    units: int(path.n)
    max: 5
    credits: '{"core": 3, "ultra": 8}[path.engine]'
`)
	o, params, ok := p.Match("POST", "/v1/core/images/2")
	require.True(t, ok)
	require.Equal(t, "2 × 3 = 6", price(o, Request{Params: params}))
	require.False(t, o.NeedsBody())
	engine, _ := params.Get("engine")
	require.Equal(t, "core", engine)
	_, ok = params.Get("other")
	require.False(t, ok)
}

func TestBodyKinds(t *testing.T) {
	t.Parallel()
	o := operation(t, "units: len(body.photos) ?? len(parts.photos)", "max: 5", "credits: 1")
	body := `{"photos":[1,2]}`
	const send = "; this request is priced by its body, so send "
	f := func(want, body string, lines ...string) {
		t.Helper()
		require.Equal(t, want, price(o, Request{Header: header(lines...), Body: []byte(body)}))
	}
	f("2 × 1 = 2", body, "content-type: application/json; charset=utf-8")
	f("2 × 1 = 2", body, "Content-Type: application/vnd.x+json", "Content-Encoding: identity")
	f(`unsupported content encoding (): The body has Content-Encoding "gzip"`+send+"it unencoded.",
		body, "Content-Type: application/json", "Content-Encoding: gzip")
	f(`invalid request (): The body has Content-Type ""`+send+"application/json or multipart/form-data.", body)
	f(`invalid request (): The body has Content-Type "text/plain"`+send+"application/json or multipart/form-data.",
		body, "Content-Type: text/plain")
	f(`invalid request (): The body has charset "utf-16"; send UTF-8.`, body, "Content-Type: application/json; charset=utf-16")
	for _, odd := range []string{
		"multipart/form-data; boundary=a; boundary*=utf-8''b", "multipart/form-data; boundary=a; boundary=b",
		`multipart/form-data; boundary="a\b"`, `multipart/form-data; boundary="a b"`, "multipart/form-data; boundary=a,b",
		"multipart/form-data; boundary=", "multipart/form-data; boundary=" + strings.Repeat("x", 71),
		"multipart/form-data; boundary=a; x=y", `multipart/form-data; boundary="a`, "application/json; boundary=a",
		"application/json; charset=utf-7; charset*=us-ascii''utf-8", "application/json;", "application/json; charset",
	} {
		require.Contains(t, price(o, Request{Header: header("Content-Type: " + odd), Body: []byte(body)}), "invalid request (", odd)
	}
	quoted := "--a,b\r\nContent-Disposition: form-data; name=\"photos\"; filename=\"x\"\r\n\r\n\r\n--a,b--"
	f("1 × 1 = 1", quoted, `Content-Type: Multipart/Form-Data ;Charset="UTF-8"; BOUNDARY="a,b"`)
	f(`ambiguous price (header.content-type): header.content-type is there twice; send it once.`,
		body, "Content-Type: application/json", "Content-Type: multipart/form-data")
	f("invalid request (body.photos): body.photos or parts.photos is missing; the price depends on it.", "")
}

func TestMaxQuote(t *testing.T) {
	t.Parallel()
	f := func(want string, rules ...string) {
		t.Helper()
		q := operation(t, rules...).MaxQuote()
		require.Equal(t, want, q.Credits.String())
	}
	f("2.5", "units: body.n ?? 1", "max: 10", "credits: 0.25")
	f("160", "units: body.n ?? 1", "max: 2", `credits: '{"a": 20, "b": 80}[body.model]'`)
	f("7", `credits: 'body.hd == true ? 7 : 3'`)
	f("100", `credits: 'min(body.w * body.h, 100)'`)
	f("0", "credits: 0")
}

func TestDelivered(t *testing.T) {
	t.Parallel()
	f := func(rule string, units, status int, body string, want uint32, wantOK bool) {
		t.Helper()
		o := operation(t, "units: body.n", "max: 50", "credits: 2", "delivered: "+rule)
		v, err := o.Read(jsonRequest(`{"n":` + string(rune('0'+units)) + `,"send":true}`))
		require.NoError(t, err)
		q, err := o.Quote(v)
		require.NoError(t, err)
		got, ok := o.Delivered(q, status, []byte(body))
		require.Equal(t, want, got, body)
		require.Equal(t, wantOK, ok, body)
		require.Equal(t, 2000*int64(want), int64(q.Charge(got)))
	}
	count := `'count(response.results, .status == "ok")'`
	f(count, 3, 200, `{"results":[{"status":"ok"},{"status":"failed"},{"status":"ok","image":"AAAA"}]}`, 2, true)
	f(count, 3, 200, `{"results":[]}`, 0, true)
	f(count, 3, 500, `{"results":[{"status":"ok"}]}`, 0, true)
	f(count, 3, 404, ``, 0, true)
	f(count, 3, 200, `{}`, 0, false)
	f(count, 3, 200, ``, 0, false)
	f(count, 3, 200, `<html>`, 0, false)
	f(count, 3, 200, `{"results":[{"status":"ok"}],"results":[]}`, 0, false)
	f(count, 3, 200, `{"results":[{"status":"ok"}],"Results":[]}`, 1, true)
	f(`len(response.data)`, 2, 200, `{"created":1700000000.5,"data":[{},{},{}]}`, 2, true)
	f(`len(response)`, 2, 201, `["a"]`, 1, true)
	f(`'response.status == "succeeded" ? units : 0'`, 4, 200, `{"status":"succeeded"}`, 4, true)
	f(`'response.status == "succeeded" ? units : 0'`, 4, 200, `{"status":"failed"}`, 0, true)
	f(`'body.send == true ? len(response.images) - (response.skip ?? 0) : units'`, 4, 200, `{"images":[1,2,3],"skip":1}`, 2, true)
	f(`response.n`, 4, 200, `{"n":-1}`, 0, false)
	f(`response.n`, 4, 200, `{"n":2.0}`, 2, true)
	f(`response.n`, 4, 200, `{"n":2.5}`, 0, false)
	f(`response.n`, 4, 200, `{"n":"3"}`, 0, false)
	f(`'count(response.scores, # > 0.55555)'`, 4, 200, `{"scores":[0.5,0.6,-1e-3]}`, 1, true)

	all := operation(t, "units: 3", "credits: 1")
	q, err := all.Quote(View{})
	require.NoError(t, err)
	got, ok := all.Delivered(q, 204, nil)
	require.Equal(t, uint32(3), got)
	require.True(t, ok)
	require.False(t, all.NeedsResponse())
}
