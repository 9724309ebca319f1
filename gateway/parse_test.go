package gateway

import (
	"bytes"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
)

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{
		"/", "/a", "/a/b", "/a/", "/v1/images/generations", "/a-b._~c", "/a:b@c", "/a%20b", "/%C3%A9", "/a,b=c&d", "/...",
		"/.well-known/x",
	} {
		require.True(t, canonicalPath(ok), ok)
	}
	for _, bad := range []string{
		"", "a", "*", "//", "/a//b", "/.", "/..", "/a/./b", "/a/../b", "/a/..", "/%61", "/a%2Fb", "/a%2fb", "/a%5Cb", "/a;b",
		"/a\\b", "/a%00", "/a%0A", "/a%", "/a%2", "/a%zz", "/a%c3%a9", "/%2E%2E", "/a%25b", "/a b", "/é", "/a#b", "/a%7F",
		"/a%3B",
	} {
		require.False(t, canonicalPath(bad), bad)
	}
}

// FuzzCanonicalPath: what is taken decodes to exactly one path, and encoding that again gives the same bytes: no two
// spellings of one path are both taken. fasthttp forwards it unchanged.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "/a%20b/", "//", "/%2e", "/a;b", "/a%C3%A9", "/a/../b", "/'%22"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !canonicalPath(s) {
			return
		}
		decoded, err := url.PathUnescape(s)
		require.NoError(t, err)
		clean := path.Clean(decoded)
		if strings.HasSuffix(s, "/") && clean != "/" {
			clean += "/"
		}
		require.Equal(t, decoded, clean, "no dot or empty segment survives decoding")
		again, err := url.PathUnescape(decoded)
		require.True(t, err == nil && again == decoded, "decoding twice changes nothing")
		for i := range len(decoded) {
			require.False(t, decoded[i] < ' ' || decoded[i] == 0x7f)
		}
		var req fasthttp.Request
		req.URI().DisablePathNormalizing = true
		req.SetRequestURI("http://h" + s)
		req.URI().DisablePathNormalizing = true
		require.Equal(t, s, string(req.URI().RequestURI()))
	})
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"abc": "abc", `"abc"`: "abc", `"a b"`: "a b", `"a\"b\\c"`: `a"b\c`,
		"8e03978e-40d5-43dd-bc93-6894a57f9324": "8e03978e-40d5-43dd-bc93-6894a57f9324",
		strings.Repeat("x", 255):               strings.Repeat("x", 255),
		`"` + strings.Repeat("x", 255) + `"`:   strings.Repeat("x", 255),
	} {
		got, ok := parseIdempotencyKey(in)
		require.True(t, ok, in)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{
		"", `"`, `""`, `"a`, `a"b`, `"a"b`, `"a\x"`, `"a\`, "a b", "a,b", "a;b", "é", "\"\x01\"", strings.Repeat("x", 256),
		`"` + strings.Repeat("x", 256) + `"`,
	} {
		_, ok := parseIdempotencyKey(bad)
		require.False(t, ok, bad)
	}
}

// FuzzIdempotencyKey: a key that is taken, quoted again, is the same key.
func FuzzIdempotencyKey(f *testing.F) {
	for _, s := range []string{"abc", `"abc"`, `"a\"b"`, `"a\\"`, `"`, "a,b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, ok := parseIdempotencyKey(s)
		if !ok {
			return
		}
		require.NotEmpty(t, key)
		require.LessOrEqual(t, len(key), idempotencyKeyMax)
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		again, ok := parseIdempotencyKey(quoted)
		if len(quoted) <= idempotencyKeyMax+2 {
			require.True(t, ok)
			require.Equal(t, key, again)
		}
	})
}

// FuzzStoredAnswer: damaged bytes are refused, never a panic; whole ones come back.
func FuzzStoredAnswer(f *testing.F) {
	f.Add([]byte("body"), "application/json", 200)
	f.Add([]byte{}, "", 204)
	g := &Gateway{upstreams: &upstreams{}}
	f.Fuzz(func(t *testing.T, body []byte, contentType string, status int) {
		var from, to, junk fasthttp.Response
		from.SetStatusCode(status&0x1ff | 0x80)
		from.Header.Set("X-Thing", contentType)
		stored := appendAnswer(nil, &from, body)
		require.NoError(t, g.setAnswer(&to, stored))
		require.Equal(t, from.StatusCode(), to.StatusCode())
		require.True(t, bytes.Equal(body, to.Body()))
		require.Equal(t, from.Header.Peek("X-Thing"), to.Header.Peek("X-Thing"))
		_ = g.setAnswer(&junk, body)
		_ = g.setAnswer(&junk, stored[:len(stored)/2])
	})
}

// The boundary is wrapping, everything else is content.
func TestFingerprintIgnoresTheBoundary(t *testing.T) {
	t.Parallel()
	parts := func(boundary, field, content string) string {
		var b bytes.Buffer
		body := "--" + boundary + "\r\nContent-Disposition: form-data; name=\"" + field + "\"\r\n\r\n" + content + "\r\n--" +
			boundary + "--\r\n"
		canonicalContent(func(f []byte) { b.Write(f); b.WriteByte(0) }, "multipart/form-data; boundary="+boundary, []byte(body), false)
		return b.String()
	}
	require.Equal(t, parts("aaa", "f", "x"), parts("bbbbbb", "f", "x"))
	require.NotEqual(t, parts("aaa", "f", "x"), parts("aaa", "f", "y"))
	require.NotEqual(t, parts("aaa", "f", "x"), parts("aaa", "g", "x"))
}
