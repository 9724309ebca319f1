//go:build unix

package gateway

import (
	"bytes"
	"net"
	"syscall"
)

// idleProbe looks whether the peer of one connection has closed it while it was idle. All that a look needs is kept
// with the connection, since every request takes one.
type idleProbe struct {
	raw  syscall.RawConn
	peek func(fd uintptr)
	gone bool
	n    int // bytes of b that the peer has sent
	b    [len("HTTP/1.1 4")]byte
}

func newIdleProbe(c net.Conn) *idleProbe {
	p := &idleProbe{}
	if sc, ok := c.(syscall.Conn); ok {
		p.raw, _ = sc.SyscallConn() // fails for a nil connection only
	}
	p.peek = func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), p.b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		p.n = max(n, 0)
		p.gone = n > 0 || (err != syscall.EAGAIN && err != syscall.EINTR)
	}
	return p
}

// hungUp reports whether the peer has closed the connection, or sent something nobody asked for. It peeks without
// waiting: one system call, where a stale connection would cost the client a 502 that cannot be retried.
func (p *idleProbe) hungUp() bool {
	if p.raw == nil {
		return false
	}
	err := p.raw.Control(p.peek) // not Read: it would fail on the last request's deadline
	return p.gone || err != nil
}

// refused reports whether the peer has begun to answer with an error.
func (p *idleProbe) refused() bool {
	if p.raw == nil || p.raw.Control(p.peek) != nil || p.n < len(p.b) || !bytes.HasPrefix(p.b[:], []byte("HTTP/1.")) {
		return false
	}
	class := p.b[len(p.b)-1]
	return class == '4' || class == '5'
}
