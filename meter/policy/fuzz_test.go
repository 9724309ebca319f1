package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
)

// FuzzJSON holds the reader against encoding/json, in both its ways: what is priced is what a map decodes to and
// what a struct, which ignores case and takes the last of two, decodes to; or the document is refused.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"n":3,"photos":[1,"a",{"n":4}],"items":[{"k":1},{"x":[]},{}],"logo":{"a":null},"o":{"m":"x"}}`,
		`{"n":1,"N":2}`, `{"n":1,"n":2}`, `{"\u006E":5}`, `{"n":1.0}`, `{"n":-0}`, `{"n":1e1}`, `{"n":01}`, `{"n":null,"photos":[]}`,
		`[{"n":1}]`, `{"items":{"k":1}}`, `{"o":{"m":"\ud83d\ude00\ud800"}}`, "{\"o\":{\"m\":\"\xff\"}}", `{"a":"\x"}`,
		`{"a":"\u12"}`,
		`{"prompt":"0123456789abcdef\"0123456789","n":2}`, "{\"a\":\"\x1f\"}", `{"a":[1,]}`, `{"a":1,}`, `{"":{"":[[[]]]}}`,
		`{"n":1}{}`,
		"{\"\u212a\":1,\"K\":2,\"items\":[{\"\u212a\":3}]}", `{"n":1e999}`, `{"x":-}`, `{"x":1.}`, `{"x":1e}`, `{"x":.5}`, `{"x":+1}`,
	} {
		f.Add([]byte(s))
	}
	rules := &needs{}
	for _, source := range []string{
		"body.n + len(body.photos) + sum(body.items, .k)", "body.logo != nil ? 1 : 2", `body.o.m == "x" ? 1 : 2`,
	} {
		_, mistake := compile(source, scope{needs: rules})
		require.Nil(f, mistake)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, refused := readJSON(body, rules.body, false, emptyMemory())
		if refused != nil {
			require.NotEmpty(t, refused.Detail)
			return
		}
		want := struct {
			N      *int              `json:"n"`
			Photos []json.RawMessage `json:"photos"`
			Items  []struct {
				K *int `json:"k"`
			} `json:"items"`
			Logo any `json:"logo"`
			O    *struct {
				M any `json:"m"`
			} `json:"o"`
		}{}
		require.NoError(t, json.Unmarshal(body, &want), "accepted what encoding/json refuses")
		doc, _ := got.(map[string]any) // nil for null
		if n, ok := doc["n"].(int); ok {
			require.Equal(t, *want.N, n)
		} else {
			require.Nil(t, want.N)
		}
		photos, _ := doc["photos"].(counted)
		require.Len(t, photos, len(want.Photos))
		require.Equal(t, want.Photos == nil, doc["photos"] == nil)
		items, _ := doc["items"].([]any)
		require.Len(t, items, len(want.Items))
		for i, it := range items {
			k, ok := it.(map[string]any)["k"].(int)
			require.Equal(t, ok, want.Items[i].K != nil)
			if ok {
				require.Equal(t, k, *want.Items[i].K)
			}
		}
		require.Equal(t, want.Logo != nil, doc["logo"] != nil)
		if o, ok := doc["o"].(map[string]any); ok && o["m"] != nil {
			require.Equal(t, fmt.Sprint(want.O.M), fmt.Sprint(o["m"]))
		}
	})
}

// FuzzSkip: what is skipped has the same grammar as what is read.
func FuzzSkip(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-2.5e+3,"x\n",true,null]}`, `{"a":"` + strings.Repeat("A", 40) + `\"é"}`, `[[],{}]`,
		`"`, `{`, `tru`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, refused := readJSON(body, nil, false, emptyMemory())
		if refused == nil {
			require.True(t, json.Valid(body))
		} else if json.Valid(body) {
			require.Contains(t, refused.Detail, "levels deep")
		}
	})
}

// FuzzForm holds the reader of queries and forms against net/url.
func FuzzForm(f *testing.F) {
	for _, s := range []string{
		"n=3&m=4", "n=3&n=4", "N=3", "n[]=3", "%6E=3", "n=%zz", "n", "&&n=1&", "n=a+b%20c", "a=1;n=3",
		"n=1=2", "%00n=1", "n%5B0%5D=7",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := newTexts("query", []string{"n"})
		if got.readQuery(body) != nil {
			return
		}
		want, err := url.ParseQuery(string(body))
		if err != nil { // it also refuses values that are not priced
			return
		}
		if n, ok := got.out["n"]; ok {
			require.Equal(t, []string{n.(string)}, want["n"])
		} else {
			require.Empty(t, want["n"])
		}
		for name := range want {
			require.False(t, name != "n" && strings.EqualFold(strings.TrimSpace(name), "n"), name)
		}
	})
}

// FuzzParse: no file panics; one that is accepted has a version, a summary, and prices any body or refuses it by
// one of the sentinels, within the operation's maximum.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	require.NoError(f, err)
	more, err := filepath.Glob("examples/*.yaml")
	require.NoError(f, err)
	for _, file := range append(files, more...) {
		src, err := os.ReadFile(file)
		require.NoError(f, err)
		if len(src) < 1<<12 {
			f.Add(src, []byte(`{"n":3,"photos":[1],"model":"pro","results":[{"status":"ok"}]}`))
		}
	}
	f.Fuzz(func(t *testing.T, src, body []byte) {
		p, err := Parse("fuzz.yaml", src)
		if err != nil {
			var ps *FileError
			require.ErrorAs(t, err, &ps)
			require.NotEmpty(t, ps.Problems)
			return
		}
		require.Len(t, p.Version(), 12)
		require.NotEmpty(t, p.Summary())
		require.Empty(t, Diff(p, p))
		checkOffers(t, p)
		for _, o := range p.Operations {
			checkPricing(t, o, body)
		}
	})
}

// checkOffers: whatever a policy gives or sells is within bounds, and belongs to what it names.
func checkOffers(t *testing.T, p *Policy) {
	t.Helper()
	inBounds := func(a Amount) {
		for _, slots := range []uint32{0, 1, 7, 1000, SlotsMax, math.MaxUint32} {
			c := a.For(slots)
			require.GreaterOrEqual(t, c, meter.Credits(0))
			require.LessOrEqual(t, c, amountMax*meter.Credit)
		}
	}
	for _, pl := range p.Plans {
		for _, c := range pl.Contingents {
			require.Equal(t, c.Bucket, p.Buckets[c.Rank])
			require.True(t, c.Unlimited || !c.Stops)
			require.NotNil(t, p.Cycle)
			inBounds(c.Amount)
		}
		for _, m := range pl.Promotions {
			require.Contains(t, p.Promotions, m)
		}
		for n, k := range pl.Packs {
			require.Contains(t, p.Packs, k)
			require.True(t, n == 0 || k.Credits > pl.Packs[n-1].Credits && k.dearer(pl.Packs[n-1]) < 0)
		}
	}
	for _, m := range p.Promotions {
		require.Equal(t, m.Bucket, p.Buckets[m.Rank])
		require.True(t, m.Starts.Before(m.Ends))
		inBounds(m.Amount)
	}
	for _, k := range p.Packs {
		require.Equal(t, k.Bucket, p.Buckets[k.Rank])
		require.Positive(t, k.Credits)
		require.Positive(t, k.Price.Minor)
		require.NotEmpty(t, k.UnitPrice())
	}
}

// FuzzAmount: what is accepted as an amount is never negative, never too large and never fails, for any number of slots.
func FuzzAmount(f *testing.F) {
	for _, s := range []string{
		"500", "slots * 10", "min(slots * 10, 5000)", "slots > 100 ? 1000 : slots * 10", "max(0, slots - 5)", "slots / 3",
		"ceil(slots / 7) * 2", "slots % 7 + 1", "slots * slots", "abs(slots - 50)", "slots ?? 3", "let x = slots; x * 2",
		"1 / slots", "[1, 2][slots]", "slots in [1]", "-slots", "round(slots * 0.333)", "slots ** 2", "0.0001 * slots", "min(slots)",
		"slots == 1 ? nil : 2", "int(slots)", "1..slots", "slots.n", "max([slots, 1])", "not slots", "1e300 * slots",
		"slots matches 'x' ? 1 : 2", "lower('A') == 'a' ? slots : 1",
	} {
		f.Add(s, uint32(7))
	}
	f.Fuzz(func(t *testing.T, text string, slots uint32) {
		r := &report{file: "fuzz"}
		root, ok := document(r, []byte("amount: "+text+"\n"))
		if !ok {
			return
		}
		keys, _ := root.fields("a mapping", "amount")
		i, ok := keys["amount"]
		if !ok {
			return
		}
		a := decodeAmount(i, "gives nothing")
		if r.err() != nil {
			return
		}
		for _, n := range []uint32{0, 1, slots, SlotsMax} {
			require.GreaterOrEqual(t, a.For(n), meter.Credits(0))
			require.LessOrEqual(t, a.For(n), amountMax*meter.Credit)
		}
	})
}

// FuzzScalars: prices, spans and dates are read back as they are written, or refused.
func FuzzScalars(f *testing.F) {
	for _, s := range []string{
		"45.00 EUR", "0.01 USD", "100 JPY", "1.234 KWD", "1y", "6mo", "4w", "30d", "9d", "3660d", "2026-03-16", "2028-02-29",
		"45.0 EUR", "045.00 EUR", "1w2d", "2026-3-16", "0000-01-01",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		read := func(decode func(i item) string) {
			r := &report{file: "fuzz"}
			at := &token.Token{Position: &token.Position{Line: 1, Column: 1}}
			got := decode(item{r: r, node: &ast.StringNode{Value: text, Token: at}, at: at})
			if r.err() == nil {
				require.Equal(t, text, got)
			}
		}
		read(func(i item) string { return decodeMoney(i).String() })
		read(func(i item) string {
			s := decodeSpan(i)
			if s.Days%7 == 0 && strings.HasSuffix(text, "d") {
				return strconv.Itoa(s.Days) + "d" // whole weeks are shown as such
			}
			return s.String()
		})
		read(func(i item) string { return decodeDate(i, time.UTC).Format(time.DateOnly) })
	})
}

func checkPricing(t *testing.T, o *Operation, body []byte) {
	t.Helper()
	v, err := o.Read(Request{Header: header("Content-Type: application/json"), Query: body, Body: bytes.Clone(body)})
	if err != nil {
		var e *InputError
		require.ErrorAs(t, err, &e)
		return
	}
	q, err := o.Quote(v)
	if err != nil {
		var e *InputError
		require.ErrorAs(t, err, &e)
		return
	}
	most := o.MaxQuote()
	require.LessOrEqual(t, q.Units, most.Units)
	require.LessOrEqual(t, q.UnitCredits, most.UnitCredits)
	require.LessOrEqual(t, q.Credits, most.Credits)
	require.GreaterOrEqual(t, int64(q.Credits), int64(0))
	ShowsFailure(nil, body)
	units, _ := o.Delivered(q, 200, body)
	require.LessOrEqual(t, units, q.Units)
}
