//go:build unix

package gateway

import (
	"net"
	"syscall"
)

// hungUp reports whether the peer has closed an idle connection, or sent something nobody asked for. It peeks
// without waiting: one system call, where a stale connection would cost the client a 502 that cannot be retried.
func hungUp(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) { // not Read: it would fail on the last request's deadline
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n > 0 || (err != syscall.EAGAIN && err != syscall.EINTR)
	})
	return gone || err != nil
}
