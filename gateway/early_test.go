package gateway_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
)

// tooLarge is a Go backend that reads 1 MiB and refuses more.
func tooLarge(tb testing.TB) string {
	tb.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20))
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			http.Error(w, "photos may have 1 MiB", http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.WriteString(w, "taken")
	}))
	tb.Cleanup(s.Close)
	return s.URL
}

// rude is a backend that does with each connection what the test says, once it has read the head of a request.
func rude(tb testing.TB, does func(c *net.TCPConn)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					does(c.(*net.TCPConn))
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

const refusal = "HTTP/1.1 413 Request Entity Too Large\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n\r\nphotos may have 1 MiB"

// TestEarlyAnswer: a backend that refuses a large body before it has read it is heard, whatever it does with the
// connection then, and its answer is the client's doing: no breaker opens.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 26<<20)
	gone := make(chan struct{})
	t.Cleanup(func() { close(gone) })
	for name, backend := range map[string]string{
		"net/http, MaxBytesReader": tooLarge(t),
		"closes at once":           rude(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, refusal) }),
		"resets": rude(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, refusal)
			_ = c.SetLinger(0)
		}),
		"reads a little, resets": rude(t, func(c *net.TCPConn) {
			_, _ = io.CopyN(io.Discard, c, 5<<20)
			_, _ = io.WriteString(c, refusal)
			_ = c.SetLinger(0)
		}),
		"neither reads nor closes": rude(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, refusal)
			<-gone
		}),
		"interim answer first": rude(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"+refusal)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(o *gateway.Options) {
				o.Upstreams, o.BreakerRequests, o.BreakerRatio = []string{backend}, 2, 0.5
			})
			key := b.account("acme", 10*meter.Credit)
			for range 4 {
				r := b.post("/plain", key, large)
				require.Equal(t, 413, r.StatusCode, "%s", r.body)
				require.Equal(t, "photos may have 1 MiB", strings.TrimSpace(string(r.body)))
				require.Equal(t, "0", r.Header.Get("X-Credits-Charged"))
			}
			require.Zero(t, b.breaker(), "closed")
			available, held := b.wallet("acme")
			require.Equal(t, [2]meter.Credits{10_000, 0}, [2]meter.Credits{available, held})
		})
	}
}

// TestEarlyAnswerThatIsNone: an answer that is no whole refusal is the backend's failure, as before. A backend that begins
// to answer before it has read the request still gets the whole request.
func TestEarlyAnswerThatIsNone(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 26<<20)
	for name, c := range map[string]struct {
		does   func(c *net.TCPConn)
		status int
		code   string
	}{
		"no answer":     {func(c *net.TCPConn) { _ = c.SetLinger(0) }, 502, "upstream-failed"},
		"half a head":   {func(c *net.TCPConn) { _, _ = io.WriteString(c, refusal[:20]) }, 502, "upstream-failed"},
		"half a body":   {func(c *net.TCPConn) { _, _ = io.WriteString(c, refusal[:len(refusal)-2]) }, 502, "upstream-failed"},
		"another thing": {func(c *net.TCPConn) { _, _ = io.WriteString(c, "bye\r\n\r\n") }, 502, "upstream-failed"},
		"eager": {func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
			<-time.After(300 * time.Millisecond) // the fault: its write is stuck, for several looks of the gateway
			n, _ := io.CopyN(io.Discard, c, 20<<20)
			if n == 20<<20 {
				_, _ = io.WriteString(c, "ok")
			}
			_, _ = io.Copy(io.Discard, c)
		}, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(o *gateway.Options) { o.Upstreams = []string{rude(t, c.does)} })
			key := b.account("acme", 10*meter.Credit)
			r := b.post("/plain", key, large)
			require.Equal(t, c.status, r.StatusCode, "%s", r.body)
			if c.code != "" {
				require.Equal(t, c.code, r.json(t)["code"])
				require.Equal(t, "0", r.Header.Get("X-Credits-Charged"))
			}
		})
	}
}
