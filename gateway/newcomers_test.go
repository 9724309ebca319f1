package gateway_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"creditgate/gateway"
	"creditgate/meter"
)

// Connections that were dialled ahead and never used, and those that are idle, hold up no shutdown.
func TestShutdownClosesWhatIsNotUsed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key := b.account("acme", 10*meter.Credit)
	var quiet []net.Conn
	for _, url := range []string{b.data, b.admin} {
		for _, request := range []string{"", "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"} {
			c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			require.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, request)
			require.NoError(t, err)
			if request != "" {
				r, err := http.ReadResponse(bufio.NewReader(c), nil)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, r.Body)
				require.NoError(t, err)
				require.NoError(t, r.Body.Close())
			}
			quiet = append(quiet, c)
		}
	}
	// What is accepted later than those shows that they were.
	require.Equal(t, 200, b.post("/plain", key, "").StatusCode)
	require.Equal(t, 200, b.control("GET", "/livez", "").StatusCode)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, b.gateway.Shutdown(ctx))
	for _, c := range quiet {
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	}
}

// A shutdown that comes before the gateway serves, or just as it begins to, ends it all the same.
func TestShutdownBeforeItServes(t *testing.T) {
	t.Parallel()
	o := setup(t).options
	for i := range 300 {
		o.Registerer = prometheus.NewRegistry()
		g, err := gateway.New(t.Context(), o)
		require.NoError(t, err)
		data, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		control, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		if i == 0 {
			require.NoError(t, g.Shutdown(t.Context()))
		}
		ran := make(chan error, 1)
		go func() { ran <- g.Run(t.Context(), data, control) }()
		for range i % 30 {
			runtime.Gosched()
		}
		if i > 0 {
			require.NoError(t, g.Shutdown(t.Context()))
		}
		select {
		case err := <-ran:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			require.FailNow(t, "it still serves", "after %d", i)
		}
	}
}
