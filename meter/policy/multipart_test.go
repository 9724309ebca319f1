package policy

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const boundary = "XbX"

// part is one part of a body; rest is what follows the name in Content-Disposition, and further header lines.
func part(name, rest, content string) string {
	return fmt.Sprintf("--%s\r\nContent-Disposition: form-data; name=%q%s\r\n\r\n%s\r\n", boundary, name, rest, content)
}

func multipartRequest(body string) Request {
	return Request{Header: header("Content-Type: multipart/form-data; boundary=" + boundary), Body: []byte(body)}
}

func TestMultipart(t *testing.T) {
	t.Parallel()
	o := operation(t, "units: len(parts.photos) * (int(form.n) ?? 1)", "max: 20", "credits: 1")
	end := "--" + boundary + "--\r\n"
	file := func(name string) string {
		return part(name, "; filename=\"a.png\"\r\nContent-Type: image/png", "\x89PNG\r\n--Xb\r\n")
	}
	f := func(want string, parts ...string) {
		t.Helper()
		require.Equal(t, want, price(o, multipartRequest(strings.Join(parts, ""))))
	}
	f("2 × 1 = 2", file("photos"), file("photos"), end)
	f("4 × 1 = 4", file("photos"), part("n", "", "2"), file("photos"), file("other"), part("x", "", "y"), end)
	f("1 × 1 = 1", file("photos"), strings.TrimSuffix(end, "\r\n"))
	f("1 × 1 = 1", part("photos", "; filename*=UTF-8''%e2%82%ac.png", "x"), end)
	f("invalid request (parts.photos): parts.photos is missing; the price depends on it.", part("n", "", "2"), end)

	f("ambiguous price (form.n): form.n is there twice; send it once.", file("photos"), part("n", "", "2"), part("n", "",
		"1"), end)
	f(`ambiguous price (form.n): form.n is also sent as "N"; send it once, as "n".`, file("photos"), part("N", "", "2"), end)
	f(`ambiguous price (parts.photos): parts.photos is also sent as "photos[]"; send it once, as "photos".`, file("photos[]"), end)
	f("ambiguous price (parts.photos): parts.photos is sent without a filename; send each file with one.", part("photos", "",
		"AAAA"), end)
	f("ambiguous price (form.n): form.n is sent as a file; send it without a filename.", file("photos"), file("n"), end)
	f("ambiguous price (): A part of the multipart body has two Content-Disposition headers; send one.",
		part("photos", "; filename=a\r\nContent-Disposition: form-data; name=n", "1"), end)

	bad := func(why string, parts ...string) {
		t.Helper()
		f("invalid request (): The multipart body cannot be read: "+why+".", parts...)
	}
	const hint = "; send form-data with a name, and a filename if it is a file"
	bad("it does not start with its boundary", "preamble\r\n", file("photos"), end)
	bad("the last boundary is missing", file("photos"))
	bad("a boundary is not followed by a line end", "--"+boundary+" \r\n\r\n"+end)
	bad("a boundary is not followed by a line end", file("photos"), "--"+boundary+"x\r\n", end)
	bad("a boundary does not stand on a line of its own", part("n", "", "2--"+boundary), end)
	bad("a boundary does not stand on a line of its own", part("n", "", "2\n--"+boundary+"\r\n"), end)
	bad("there is more after its last boundary", file("photos"), end, "x")
	bad("a part's header does not end within 4096 bytes", part("n", "; x="+strings.Repeat("y", 5000), "2"), end)
	bad("a part's header does not end within 4096 bytes", "--"+boundary+"\r\nA: b\r\n", end)
	bad(`a part has the header line " folded"`, part("n", "\r\n folded", "2"), end)
	bad(`a part has the Content-Disposition ""`+hint, "--"+boundary+"\r\n\r\n2\r\n", end)
	bad(`a part has the Content-Disposition "attachment; name=n"`+hint,
		"--"+boundary+"\r\nContent-Disposition: attachment; name=n\r\n\r\n2\r\n", end)
	bad(`a part has the Content-Disposition "form-data; name=\"x\"; name*=utf-8''n"`+hint, part("x", "; name*=utf-8''n", "2"), end)
	bad(`a part has the Content-Disposition "form-data; name=\"n\"; name=\"m\""`+hint, part("n", "; name=\"m\"", "2"), end)
	bad(`the part "n" is encoded or of a kind of its own; send it as it is`, file("photos"), part("n",
		"\r\nContent-Transfer-Encoding: base64", "Mg=="), end)
	bad(`the part "photos" is encoded or of a kind of its own; send it as it is`,
		part("photos", "; filename=a\r\nContent-Type: multipart/mixed; boundary=y", ""), end)
	f(`invalid request (form.n): form.n is "2.0"; write a whole number from 0 to 67108863, without sign, point or leading zero.`,
		file("photos"), part("n", "", "2.0"), end)

	for _, d := range []string{
		`form-data; x="name=n"; name="zzz"`, `form-data; filename="name=n"; name="zzz"`, `form-data; name="z\"; name=\"n"`,
		`form-data; name="n"; filename="a\"b"`, `form-data; name="n"; filename="a"; filename="b"`, `form-data; name="n";`,
		`form-data; name="n"; x=y`, `form-data; name = "n"`, `form-data; name="n" filename=a`, `form-data; name='n` + "`", `form-data`,
		`form-data; name="n`, `form-data; name=n,m`,
	} {
		require.Contains(t, price(o, multipartRequest("--"+boundary+"\r\nContent-Disposition: "+d+"\r\n\r\n2\r\n"+end)),
			"a part has the Content-Disposition", d)
	}
	f("4 × 1 = 4", part("photos", "; filename=a.png; filename*=utf-8''a.png\r\nContent-Type: image/png", "x"),
		"--"+boundary+"\r\nContent-Disposition: form-data; name=n\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n4\r\n", end)
	bad(`the part "n" is encoded or of a kind of its own; send it as it is`, part("n",
		"\r\nContent-Type: application/octet-stream", "2"), end)
	bad(`the part "n" is encoded or of a kind of its own; send it as it is`, part("n",
		"\r\nContent-Type: text/plain; charset=utf-16", "2"), end)
	f("ambiguous price (): A part of the multipart body has two Content-Type headers; send one.",
		part("n", "\r\nContent-Type: text/plain\r\nContent-Type: image/png", "2"), end)

	r := multipartRequest(file("photos") + end)
	r.Header = header("Content-Type: multipart/form-data")
	require.Contains(t, price(o, r), "Content-Type has no boundary")
}

// FuzzMultipart holds the reader against mime/multipart: what is priced is what the standard library sees, or the
// body is refused.
func FuzzMultipart(f *testing.F) {
	end := "--" + boundary + "--\r\n"
	f.Add([]byte(part("n", "", "3") + part("photos", "; filename=a", "xyz") + end))
	f.Add([]byte(part("n", "\r\nContent-Type: text/plain", "3") + part("other", "", "--Xb") + end))
	f.Add([]byte("--XbX\r\nContent-Disposition: form-data; name=n\n\n3\r\n--XbX--"))
	f.Add([]byte("--XbX\nContent-Disposition: form-data; name=n\n\n3\n--XbX--\n"))
	f.Add([]byte(part("N", "", "3") + end + part("n", "", "9") + end))
	f.Add([]byte("--XbX\r\nContent-Disposition:form-data;name=\"\"\r\n:\r\n\r\n\r\n--XbX--")) // found once: a nameless header line
	f.Fuzz(func(t *testing.T, body []byte) {
		form := newTexts("form", []string{"n"})
		m := multiparts{form: form, names: []string{"photos"}, files: map[string]any{}}
		if m.read(body, boundary) != nil {
			return
		}
		want, err := multipart.NewReader(bytes.NewReader(body), boundary).ReadForm(1 << 20)
		require.NoError(t, err)
		if n, ok := form.out["n"]; ok {
			require.Equal(t, []string{n.(string)}, want.Value["n"])
		} else {
			require.Empty(t, want.Value["n"])
		}
		files, _ := m.files["photos"].(counted)
		require.Len(t, want.File["photos"], len(files))
	})
}
