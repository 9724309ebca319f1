package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const routesSource = `  root: {match: GET /, credits: 0}
  list: {match: GET /v1/images, credits: 0}
  make: {match: POST /v1/images, credits: 1}
  one: {match: 'GET /v1/images/{id}', credits: 1}
  edit: {match: 'POST /v1/{kind}/{id}/edit', credits: 1}
`

func TestMatch(t *testing.T) {
	t.Parallel()
	p := parse(t, routesSource)
	f := func(method, path, want string, values ...string) {
		t.Helper()
		o, params, ok := p.Match(method, path)
		require.Equal(t, want != "", ok, path)
		if !ok {
			return
		}
		require.Equal(t, want, o.Name, path)
		require.Equal(t, values, append([]string(nil), params.values[:params.n]...), path)
	}
	f("GET", "/", "root")
	f("GET", "/v1/images", "list")
	f("POST", "/v1/images", "make")
	f("GET", "/v1/images/7", "one", "7")
	f("GET", "/v1/images/a.b-c~d", "one", "a.b-c~d")
	f("POST", "/v1/images/7/edit", "edit", "images", "7")
	f("POST", "/v1/images/edit/edit", "edit", "images", "edit")
	for _, path := range []string{
		"", "/v1/images/", "/v1/images/7/", "/V1/images", "/v1/images/7/8", "v1/images", "/v1//7/edit", "/v1/images//edit",
	} {
		f("GET", path, "")
		f("POST", path, "")
	}
	f("PUT", "/v1/images", "")
	f("get", "/v1/images", "")
	f("POST", "/", "")
}

func TestPasses(t *testing.T) {
	t.Parallel()
	refuse := parse(t, routesSource)
	require.False(t, refuse.Passes("/health"))
	pass, err := Parse("test.yaml", []byte("unmatched: pass\nname: test\nbuckets: [a]\noperations:\n"+routesSource))
	require.NoError(t, err)
	for _, path := range []string{"/health", "/v1/images/7/8/9", "/v2/images", "/v1/images;x/7/8"} {
		require.True(t, pass.Passes(path), path)
	}
	for _, path := range []string{
		"/V1/Images", "/v1/images/", "/v1/images;a=b", "/v1;x/images", "/v1/images/;", "/v1/a/b/EDIT", "//v1/images", "no/path", "",
	} {
		require.False(t, pass.Passes(path), path)
	}
	require.False(t, pass.Passes("/v1/images"), "with a method that is not declared")
}

func TestMatchDoesNotAllocate(t *testing.T) { //nolint:paralleltest // others would add to its allocations
	p := parse(t, routesSource)
	for _, path := range []string{"/v1/images", "/v1/x/y/edit", "/nothing"} {
		require.Zero(t, testing.AllocsPerRun(100, func() { p.Match("POST", path) }), path)
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	for _, name := range Examples() {
		src, err := Example(name)
		require.NoError(t, err)
		p, err := Parse(name+".yaml", src)
		require.NoError(t, err)
		require.Equal(t, name, p.Name)
		require.Regexp(t, "^[0-9a-f]{12}$", p.Version())
		require.Contains(t, p.Summary(), p.Version())
	}
	_, err := Example("none")
	require.ErrorContains(t, err, "3d-studio, ai-background-studio, dev, visual-foundry")
	_, err = Load("testdata/none.yaml")
	require.ErrorContains(t, err, "no such file")
	p, err := Load("examples/dev.yaml")
	require.NoError(t, err)
	rank, ok := p.Rank("purchased")
	require.Equal(t, uint8(2), rank)
	require.True(t, ok)
	_, ok = p.Rank("other")
	require.False(t, ok)
}

// The version follows the rules and nothing else.
func TestVersion(t *testing.T) {
	t.Parallel()
	version := func(src string) string {
		p, err := Parse("test.yaml", []byte(src))
		require.NoError(t, err)
		return p.Version()
	}
	const src = `name: a
buckets: [x, y]
operations:
  p: {match: GET /p, credits: 0}
  q: {match: GET /q, credits: 1, units: body.n, max: 3}
`
	base := version(src)
	require.Equal(t, base, version(`# why
buckets:
  - x
  - y
operations:
  q:
    max: 3
    units:   body.n   # how many
    credits: 1.000
    match: GET /q
  p: {match: GET /p, credits: 0}
name: a
unmatched: refuse
timezone: UTC
`))
	seen := map[string]bool{base: true}
	for _, change := range [][2]string{
		{"name: a", "name: b"},
		{"[x, y]", "[y, x]"},
		{"[x, y]", "[xy]"},
		{"/p", "/r"},
		{"  p:", "  r:"},
		{"GET /p", "PUT /p"},
		{"credits: 1", "credits: 1.001"},
		{"max: 3", "max: 4"},
		{"body.n", "body.m"},
		{"name: a", "name: a\nunmatched: pass"},
		{"name: a", "name: a\ntimezone: Asia/Tokyo"},
		{"max: 3", "max: 3, delivered: len(response.data)"},
	} {
		v := version(strings.Replace(src, change[0], change[1], 1))
		require.False(t, seen[v], change)
		seen[v] = true
	}
}
