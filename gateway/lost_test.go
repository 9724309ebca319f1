//go:build linux

package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// TestUndeliveredSmallAnswer: a charged answer that fits into the socket's buffer counts as undelivered when the client
// went away while the backend worked, and only then.
func TestUndeliveredSmallAnswer(t *testing.T) {
	t.Parallel()
	whole := func(t *testing.T, c *net.TCPConn) {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Len(t, body, 300)
	}
	for name, test := range map[string]struct {
		before, after func(t *testing.T, c *net.TCPConn) // the backend answers
		lines         string
		undelivered   float64
	}{
		"gone": {before: func(t *testing.T, c *net.TCPConn) { t.Helper(); require.NoError(t, c.Close()) }, undelivered: 1},
		"gone, HTTP/1.1 close": {
			before: func(t *testing.T, c *net.TCPConn) { t.Helper(); require.NoError(t, c.Close()) }, lines: "Connection: close\r\n",
			undelivered: 1,
		},
		"reads it":     {after: whole},
		"half closed":  {before: func(t *testing.T, c *net.TCPConn) { t.Helper(); require.NoError(t, c.CloseWrite()) }, after: whole},
		"asked to end": {after: whole, lines: "Connection: close\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.account("acme", 10*meter.Credit)
			proceed := make(chan struct{})
			b.backend.on(func(ctx *fasthttp.RequestCtx) { <-proceed; ctx.SetBodyString(strings.Repeat("x", 300)) })
			conn, err := net.Dial("tcp", strings.TrimPrefix(b.data, "http://"))
			require.NoError(t, err)
			c := conn.(*net.TCPConn)
			_, err = io.WriteString(c, "POST /plain HTTP/1.1\r\nHost: gw\r\n"+key+test.lines+"Content-Length: 0\r\n\r\n")
			require.NoError(t, err)
			require.Eventually(t, func() bool { return b.backend.calls.Load() == 1 }, 20*time.Second, time.Millisecond)
			if test.before != nil {
				test.before(t, c)
			}
			close(proceed)
			if test.after != nil {
				test.after(t, c)
				require.NoError(t, c.Close())
			}
			require.Eventually(t, func() bool { available, held := b.wallet("acme"); return available == 8000 && held == 0 },
				20*time.Second, time.Millisecond)
			b.stop() // every connection has ended then
			require.InDelta(t, test.undelivered, b.metric("creditgate_undelivered_total"), 0)
		})
	}
}
