package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
		for _, o := range p.Operations {
			checkPricing(t, o, body)
		}
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
	units, _ := o.Delivered(q, 200, body)
	require.LessOrEqual(t, units, q.Units)
}
