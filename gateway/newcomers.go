package gateway

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

// fasthttp takes a connection for busy from its first moment, though nothing was ever sent on it: a client that dialled
// ahead would hold up a shutdown until it runs out of time. So these connections are known here.

const (
	// newcomerPatience is how long a connection may take to show its first byte while the gateway shuts down: a request
	// that is on its way is still served.
	newcomerPatience = 250 * time.Millisecond
	// dismissEvery is how often a shutdown looks for those that took longer.
	dismissEvery = 50 * time.Millisecond
)

// newcomers is a listener that knows which of its connections nothing was read from yet.
type newcomers struct {
	net.Listener

	ended sync.Once
	open  atomic.Int64 // connections, used or not
	mu    sync.Mutex
	since map[*newcomer]time.Time // of those not used; as many as fasthttp serves at a time
}

func newNewcomers(l net.Listener) *newcomers {
	return &newcomers{Listener: l, since: map[*newcomer]time.Time{}}
}

// Accept implements net.Listener.
func (l *newcomers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := &newcomer{Conn: c, of: l}
	l.open.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since[n] = time.Now()
	return n, nil
}

// Close implements net.Listener. It may be called again.
func (l *newcomers) Close() (err error) {
	l.ended.Do(func() { err = l.Listener.Close() })
	return err
}

func (l *newcomers) forget(n *newcomer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.since, n)
}

// end shuts down the server on this listener: what is idle or was never used is closed, and what is in flight is waited
// for until ctx ends. A server that has not begun to serve knows of no listener and would leave it open for ever: so it
// is closed here.
func (l *newcomers) end(ctx context.Context, server *fasthttp.Server) error {
	if err := l.Close(); err != nil {
		return fmt.Errorf("gateway: close %s: %w", l.Addr(), err)
	}
	dismissing, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { l.dismiss(dismissing) })
	defer work.Wait()
	defer stop()
	return server.ShutdownWithContext(ctx)
}

// left waits until no connection is open, or ctx ends. fasthttp waits only in its first shutdown.
func (l *newcomers) left(ctx context.Context) {
	tick := time.NewTicker(dismissEvery)
	defer tick.Stop()
	for l.open.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// dismiss closes those that show nothing, until ctx ends.
func (l *newcomers) dismiss(ctx context.Context) {
	tick := time.NewTicker(dismissEvery)
	defer tick.Stop()
	for {
		l.mu.Lock()
		for n, since := range l.since {
			if time.Since(since) >= newcomerPatience {
				_ = n.Conn.Close() // whoever reads from it sees that
				delete(l.since, n)
			}
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// newcomer is a connection until something was read from it, and then a plain one.
type newcomer struct {
	net.Conn

	of     *newcomers
	used   sync.Once
	closed sync.Once
}

// Read implements net.Conn.
func (n *newcomer) Read(b []byte) (int, error) {
	got, err := n.Conn.Read(b)
	if got > 0 {
		n.used.Do(n.settle)
	}
	return got, err
}

// Close implements net.Conn.
func (n *newcomer) Close() error {
	n.used.Do(n.settle)
	n.closed.Do(func() { n.of.open.Add(-1) })
	return n.Conn.Close()
}

func (n *newcomer) settle() { n.of.forget(n) }

// SyscallConn implements syscall.Conn.
func (n *newcomer) SyscallConn() (syscall.RawConn, error) {
	sc, ok := n.Conn.(syscall.Conn)
	if !ok {
		return nil, net.ErrClosed
	}
	return sc.SyscallConn()
}

// CloseWrite closes the side that the gateway writes to.
func (n *newcomer) CloseWrite() error {
	half, ok := n.Conn.(interface{ CloseWrite() error })
	if !ok {
		return net.ErrClosed
	}
	return half.CloseWrite()
}
