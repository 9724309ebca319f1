package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// quickForms are the sources that are evaluated without the machine; they read the body as request or as response.
func quickForms() []string {
	return []string{
		"body.n", "body.n ?? 1", "body.o.n ?? 2", "len(body.photos)", "len(body.photos) ?? 1", "len(body.o.photos) ?? 3",
		`count(body.items, .status == "ok")`, "given(body.photos)", "given(body.given)", "given(body.o.given) || given(body.items)",
	}
}

func quickBodies() []string {
	return []string{
		`{}`, `null`, `{"n":3}`, `{"n":null,"o":{}}`, `{"n":"4","o":{"n":7,"photos":[1,2]}}`, `{"o":null}`, `{"o":5}`,
		`{"photos":[]}`, `{"photos":[1,2,3],"items":[]}`, `{"photos":null,"items":null}`, `{"photos":7,"items":{"a":1}}`,
		`{"items":[{"status":"ok"},{"status":"failed"},{},{"status":"ok"}]}`, `{"items":[{"status":1}]}`,
		`{"given":""}`, `{"given":"x","o":{"given":[ ]}}`, `{"given":[],"o":{"given":[1]}}`, `{"given":{},"items":[]}`, `{"given":null}`,
		`{"items":[{"status":true},{"status":"ok"}]}`, `{"items":[null]}`, `{"items":["ok"]}`, `{"n":true,"photos":"x"}`, `[]`,
	}
}

// sameBothWays prices body by each form; where the quick way has a result, the machine has the same one.
func sameBothWays(t *testing.T, forms []*expression, sh *shape, body string, quickly map[string]int) {
	t.Helper()
	for _, lax := range []bool{false, true} {
		m := emptyMemory()
		v, refused := readJSON([]byte(body), sh, lax, m)
		if refused != nil {
			continue
		}
		m.env["body"] = v
		for _, e := range forms {
			got, ok := e.quick.value(m.env)
			if !ok {
				continue
			}
			want, err := e.runMachine(m.env)
			require.NoError(t, err, "%s of %s", e.source, body)
			require.Equal(t, want, got, "%s of %s", e.source, body)
			quickly[e.source]++
		}
	}
}

func quickExpressions(tb testing.TB) ([]*expression, *shape) {
	tb.Helper()
	rules := &needs{}
	var forms []*expression
	for _, source := range quickForms() {
		e, mistake := compile(source, scope{needs: rules, condition: strings.HasPrefix(source, "given")})
		require.Nil(tb, mistake, source)
		require.NotNil(tb, e.quick, source)
		forms = append(forms, e)
	}
	return forms, rules.body
}

func TestQuick(t *testing.T) {
	t.Parallel()
	forms, sh := quickExpressions(t)
	quickly := map[string]int{}
	for _, body := range quickBodies() {
		sameBothWays(t, forms, sh, body, quickly)
	}
	for _, source := range quickForms() {
		require.Greater(t, quickly[source], 3, "%s is hardly ever decided without the machine", source)
	}
	for _, source := range []string{
		"body.n + 1", "body?.n ?? 1", "(body.n ?? 1) * 2", "body.n ?? body.m ?? 1", "count(body.items, .k == .m)",
		`count(body.items, .status != "ok")`, "len(body.items) + 1", "int(query.n)", "body.items[0].k", "max(1, body.n)",
	} {
		e, mistake := compile(source, scope{needs: &needs{}})
		require.Nil(t, mistake, source)
		require.Nil(t, e.quick, source)
	}
}

func FuzzQuick(f *testing.F) {
	forms, sh := quickExpressions(f)
	for _, body := range quickBodies() {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) { sameBothWays(t, forms, sh, body, map[string]int{}) })
}

// A view is made in memory that earlier requests used: nothing of theirs may be in it, and nothing of a view that is
// still held may change.
func TestViewsShareNothing(t *testing.T) {
	t.Parallel()
	o := operation(t, `units: len(body.photos) ?? 1`, "max: 50", `credits: 'body.model == "pro" ? 2 : 1'`,
		`delivered: count(response.results, .status == "ok" && body.model == "pro")`)
	read := func(body string) (View, Quote) {
		v, err := o.Read(jsonRequest(body))
		require.NoError(t, err)
		q, err := o.Quote(v)
		require.NoError(t, err)
		return v, q
	}
	answer := []byte(`{"results":[{"status":"ok"},{"status":"ok"},{"status":"failed"}]}`)
	held, first := read(`{"photos":[1,2,3],"model":"pro"}`)
	before := string(held.AppendPriced(nil))
	for range 100 {
		v, q := read(`{"model":"lite","photos":[7]}`)
		units, ok := o.Delivered(q, 200, answer)
		require.True(t, ok)
		require.Zero(t, units)
		v.Release()
		v, q = read(`{}`)
		require.Equal(t, uint32(1), q.Units, "of photos that another request sent")
		v.Release()
	}
	require.Equal(t, before, string(held.AppendPriced(nil)))
	units, ok := o.Delivered(first, 200, answer)
	require.True(t, ok)
	require.Equal(t, uint32(2), units)
}
