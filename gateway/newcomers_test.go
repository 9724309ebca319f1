package gateway_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
