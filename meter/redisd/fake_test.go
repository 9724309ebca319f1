package redisd

import (
	"bufio"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeServer answers one connection's PING and INFO, for the answers that no installed server gives.
func fakeServer(t *testing.T, info string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		_, _ = r.ReadString('\n')
		_, _ = r.ReadString('\n')
		_, _ = fmt.Fprintf(conn, "+PONG\r\n$%d\r\n%s\r\n", len(info), info)
	}()
	return l.Addr().String()
}
