package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const needsBackground = `require: [{that: given(body.background) or given(form.background) or given(parts.background), else: Add a background.}]`

// A request that does not meet a requirement is refused with the words of the policy; what was sent is not read.
func TestRequire(t *testing.T) {
	t.Parallel()
	o := operation(t, needsBackground, "units: len(body.photos) ?? len(parts.photos)", "max: 5", "credits: 1")
	f := func(body, want string) {
		t.Helper()
		require.Equal(t, want, price(o, jsonRequest(body)), body)
	}
	const refused = "requirement not met (body.background): Add a background."
	f(`{"photos":[1,2],"background":"#fff"}`, "2 × 1 = 2")
	f(`{"photos":[1],"background":"`+strings.Repeat("A", 1<<20)+`"}`, "1 × 1 = 1")
	f(`{"photos":[1],"background":{"colour":"#fff"}}`, "1 × 1 = 1")
	f(`{"photos":[1,2],"logo":"acme"}`, refused)
	f(`{"photos":[1,2],"background":null}`, refused)
	f(`{"photos":[1,2],"background":""}`, refused)
	f(`{"photos":[1,2],"background":[ ]}`, refused)
	f(`{}`, refused)
	f(`null`, refused)
	f(``, refused)
	f(`{"photos":[1],"background":"#fff","Background":""}`,
		`ambiguous price (body.background): body.background is also sent as "Background"; send it once, as "background".`)
	f(`{"photos":[1],"background":""`, "invalid request (): The body is not valid JSON at byte 29: expected a comma or \"}\".")

	const photo = "Content-Disposition: form-data; name=\"photos\"; filename=\"1.png\"\r\n\r\nx"
	form := func(want string, parts ...string) {
		t.Helper()
		r := Request{Header: header("Content-Type: multipart/form-data; boundary=b"), Body: []byte("--b\r\n" +
			strings.Join(append([]string{photo}, parts...), "\r\n--b\r\n") + "\r\n--b--")}
		require.Equal(t, want, price(o, r), parts)
	}
	form("1 × 1 = 1", "Content-Disposition: form-data; name=\"background\"\r\n\r\n#fff")
	form("1 × 1 = 1", "Content-Disposition: form-data; name=\"background\"; filename=\"wall.png\"\r\n\r\nx")
	form(refused, "Content-Disposition: form-data; name=\"background\"\r\n\r\n")
	form(refused, "Content-Disposition: form-data; name=\"logo\"; filename=\"logo.png\"\r\n\r\nx")
}

// Each condition is any expression that comes to true or false; the first one that is not met is told.
func TestRequireConditions(t *testing.T) {
	t.Parallel()
	o := operation(t, "require:", "  - {that: body.width * body.height <= 4000000, else: Ask for at most 4 megapixels.}",
		"  - {that: 'body.mode in [\"fast\", \"fine\"]', else: mode is fast or fine.}", "credits: 'given(body.logo) ? 2 : 1'")
	f := func(body, want string) {
		t.Helper()
		require.Equal(t, want, price(o, jsonRequest(body)), body)
	}
	f(`{"width":2000,"height":2000,"mode":"fast"}`, "1 × 1 = 1")
	f(`{"width":2000,"height":2000,"mode":"fine","logo":"x"}`, "1 × 2 = 2")
	f(`{"width":2001,"height":2000,"mode":"slow"}`, "requirement not met (body.width): Ask for at most 4 megapixels.")
	f(`{"width":"2000","height":2000,"mode":"fast"}`, "requirement not met (body.width): Ask for at most 4 megapixels.")
	f(`{"height":2000,"mode":"fast"}`, "requirement not met (body.width): Ask for at most 4 megapixels.")
	f(`{"width":1,"height":1}`, "requirement not met (body.mode): mode is fast or fine.")
}

// What is required is a rule: another condition is another version of the policy, another message is not.
func TestRequireIsInTheVersion(t *testing.T) {
	t.Parallel()
	with := func(line string) string {
		return parse(t, "  x:\n    match: POST /x\n    credits: 1\n    "+line+"\n").Version()
	}
	one := with("require: [{that: given(body.a), else: a}]")
	require.NotEqual(t, with("max: 1"), one)
	require.NotEqual(t, with("require: [{that: given(body.b), else: a}]"), one)
	require.Equal(t, with("require: [{that: given(body.a), else: b}]"), one)
}
