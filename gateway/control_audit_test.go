package gateway

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
)

// logText is a log that is read while it is written.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Fifty wrong tokens are two lines: the first, and how many there were.
func TestWrongAdminTokensAreCounted(t *testing.T) {
	t.Parallel()
	log := &logText{}
	r := newRefusedTokens(zerolog.New(log), 200*time.Millisecond)
	var tries sync.WaitGroup
	for range 50 {
		tries.Go(func() {
			var ctx fasthttp.RequestCtx
			ctx.Init(&fasthttp.Request{}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 4000}, nil)
			r.one(t.Context(), &call{ctx: &ctx, head: head{authorization: []byte("Bearer wrong")}})
		})
	}
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), `"peer":"10.0.0.9","tokens":`)
	}, 20*time.Second, time.Millisecond)
	tries.Wait()
	require.GreaterOrEqual(t, strings.Count(log.String(), `"message":"wrong admin token"`), 1)
}

// A probe that asks HEAD /livez, or a person who forgot the token, guesses at none.
func TestNoTokenIsNoWrongToken(t *testing.T) {
	t.Parallel()
	r := newRefusedTokens(zerolog.Nop(), time.Hour)
	var ctx fasthttp.RequestCtx
	ctx.Init(&fasthttp.Request{}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 4000}, nil)
	r.one(t.Context(), &call{ctx: &ctx})
	require.Empty(t, r.peers)
}

func TestPeersOfWrongTokensAreBounded(t *testing.T) {
	t.Parallel()
	r := newRefusedTokens(zerolog.Nop(), time.Hour)
	for i := range 3 * refusedPeers {
		r.count(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	require.LessOrEqual(t, len(r.peers), refusedPeers+1)
}
