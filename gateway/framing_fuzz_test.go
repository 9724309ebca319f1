package gateway

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// bytesConn is a connection on which everything has been sent already.
type bytesConn struct {
	net.Conn

	in io.Reader
}

func (c *bytesConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *bytesConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *bytesConn) Close() error                     { return nil }
func (c *bytesConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *bytesConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *bytesConn) SetDeadline(time.Time) error      { return nil }
func (c *bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (c *bytesConn) SetWriteDeadline(time.Time) error { return nil }

// said is a request as one of two readers understood it.
type said struct{ method, target, host, key, body string }

// readByGateway is what the gateway takes from the connection, up to the first refusal.
func readByGateway(t *testing.T, b []byte) (requests []said) {
	t.Helper()
	o := Options{Settings: Settings{RequestBodyMax: 1 << 20}}
	o.setDefaults()
	g := &Gateway{set: o.Settings, clock: new(meter.Clock), problems: newProblemWriter(), log: zerolog.Nop()}
	g.exchanges.New = newExchange
	server := g.server(func(ctx *fasthttp.RequestCtx) {
		x := g.begin(ctx)
		p := x.readHead()
		if p == nil {
			p = g.readBody(x)
		}
		if p != nil {
			ctx.Response.SetConnectionClose()
			return
		}
		host := x.authority
		if host == "" {
			host = string(ctx.Request.Header.Host())
		}
		requests = append(requests, said{
			strings.Clone(x.method), strings.Clone(x.target), host, string(x.head.authorization), string(x.out.Body()),
		})
	}, g.set.RequestBodyMax)
	server.StreamRequestBody = true
	_ = server.ServeConn(&clientConn{patientConn: patientConn{Conn: &bytesConn{in: bytes.NewReader(b)}}})
	return requests
}

// readByStandard is what net/http takes from it, up to the first refusal.
func readByStandard(b []byte) (requests []said) {
	in := bufio.NewReader(bytes.NewReader(b))
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return requests
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return requests
		}
		target := r.RequestURI
		if !strings.HasPrefix(target, "/") {
			target = r.URL.RequestURI()
		}
		requests = append(requests, said{r.Method, target, r.Host, strings.Join(r.Header["Authorization"], ","), string(body)})
	}
}

// FuzzFraming: of every stream of bytes, the requests that both the gateway and net/http take are the same ones: the
// same method, target, host, key and body, so that neither sees a request in what is a body to the other.
func FuzzFraming(f *testing.F) {
	const next = "GET /next HTTP/1.1\r\nHost: b\r\n\r\n"
	for _, s := range []string{
		"POST /a?b=c HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\nContent-Length: 3\r\n\r\nabc",
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX: 1\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
		"POST http://h:1/a HTTP/1.1\r\nHost: a\r\nContent-Length: 03\r\n\r\nabc",
		"GET / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
		"POST /a HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: a\r\nX: 1\r\n Content-Length: 3\r\n\r\nabc",
		"HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
		"\r\nGET /a HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
	} {
		f.Add([]byte(s + next))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := readByGateway(t, b), readByStandard(b)
		for i := range min(len(ours), len(theirs)) {
			require.Equal(t, theirs[i], ours[i], "request %d", i)
		}
	})
}
