package gateway

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ackWait bounds the wait for what a client that has closed its side says to the last response.
	ackWait = time.Second
	ackStep = 5 * time.Millisecond
	// tcpClosed is the state of a connection that the peer has reset.
	tcpClosed = 7
)

// lost reports whether the peer has closed the connection without taking all that was written to it. A small response
// goes into the socket's buffer even if the client is gone, and the reset comes later. A response whose fate is unknown
// after ackWait, or whose peer has not closed, does not count as lost. A client that resets the connection at once after it has
// read may count, if the reset overtakes its kernel's acknowledgement.
func lost(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	tick := time.NewTicker(ackStep) // the kernel tells of an acknowledgement only when it is asked
	defer tick.Stop()
	for until := time.Now().Add(ackWait); ; <-tick.C {
		queued, reset, closed := 0, false, false
		err := raw.Control(func(fd uintptr) {
			queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) // written and not acknowledged
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				reset = info.State == tcpClosed
			}
			var b [1]byte
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			closed = n == 0 && err == nil
		})
		switch {
		case err != nil || queued == 0:
			return false
		case reset:
			return true
		case !closed || time.Now().After(until):
			return false
		}
	}
}
