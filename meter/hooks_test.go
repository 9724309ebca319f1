package meter_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
)

// hookBook is a Book whose calls a test can delay or break.
type hookBook struct {
	*metertest.Book
	onClaim   func(partition uint16)
	onCursor  func(at meter.Cursor) (meter.Cursor, error)
	onAccount func(name string)
	onLapses  func() ([]meter.Lapse, error) // due before all others
	behind    atomic.Bool
}

func (b *hookBook) DueLapses(ctx context.Context, after meter.Lapse, until time.Time, limit int) ([]meter.Lapse, error) {
	due, err := b.Book.DueLapses(ctx, after, until, limit)
	if b.onLapses == nil || err != nil || !after.At.IsZero() {
		return due, err
	}
	more, err := b.onLapses()
	return append(more, due...)[:min(limit, len(more)+len(due))], err
}

func (b *hookBook) Cursor(ctx context.Context, p uint16) (meter.Cursor, error) {
	at, err := b.Book.Cursor(ctx, p)
	if b.onCursor != nil && err == nil {
		return b.onCursor(at)
	}
	return at, err
}

func (b *hookBook) ClaimEpoch(ctx context.Context, p uint16, atLeast uint64) (uint64, error) {
	if b.onClaim != nil {
		b.onClaim(p)
	}
	return b.Book.ClaimEpoch(ctx, p, atLeast)
}

func (b *hookBook) Account(ctx context.Context, name string) (meter.Account, meter.Cursor, error) {
	if b.onAccount != nil {
		b.onAccount(name)
	}
	a, at, err := b.Book.Account(ctx, name)
	if b.behind.Load() {
		at = meter.Cursor{}
	}
	return a, at, err
}

func (b *testBundle) startWith(redisURL string, book *hookBook, now func() time.Time) *meter.Engine {
	b.t.Helper()
	e, err := meter.New(meter.Options{
		RedisURL: redisURL, Layout: b.layout, Book: book, Rebuild: book, Now: now,
		Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
	return e
}

func (b *testBundle) raw() redis.UniversalClient {
	b.t.Helper()
	c, err := meter.NewRedis(b.server.URL())
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

// setupHooked also gives a book with hooks over the same data.
func setupHooked(t *testing.T) (*testBundle, *hookBook) {
	b := setup(t)
	return b, &hookBook{Book: b.book}
}

func within(t *testing.T, d time.Duration, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s: not back after %s", what, d)
	}
}

// proxy stands before Redis. The first time a chunk to Redis has `mark` in it, first decides what happens.
type proxy struct {
	addr  string
	mark  []byte
	used  atomic.Bool
	first func(chunk []byte, up net.Conn) // runs instead of forwarding; the connection ends afterwards
	// replied is told when Redis answered what first sent: it has run.
	replied chan struct{}
}

func startProxy(t *testing.T, target string, p *proxy) string {
	t.Helper()
	u, err := url.Parse(target)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	redisAddr := u.Host
	go func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", redisAddr)
			if err != nil {
				_ = down.Close()
				continue
			}
			go p.serve(down, up)
		}
	}()
	p.addr, p.replied = l.Addr().String(), make(chan struct{}, 1)
	u.Host = p.addr
	return u.String()
}

func (p *proxy) serve(down, up net.Conn) {
	defer down.Close()
	var special atomic.Bool
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := up.Read(buf)
			if err != nil {
				return
			}
			if !special.Load() {
				_, _ = down.Write(buf[:n])
				continue
			}
			select {
			case p.replied <- struct{}{}:
			default:
			}
		}
	}()
	buf := make([]byte, 1<<16)
	for {
		n, err := down.Read(buf)
		if err != nil {
			_ = up.Close()
			return
		}
		if p.mark != nil && bytes.Contains(buf[:n], p.mark) && p.used.CompareAndSwap(false, true) {
			special.Store(true)
			p.first(bytes.Clone(buf[:n]), up)
			_, _ = io.Copy(io.Discard, down)
			return
		}
		_, _ = up.Write(buf[:n])
	}
}
