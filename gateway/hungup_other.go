//go:build !unix

package gateway

import "net"

// idleProbe cannot tell whether a peer has gone: that takes a peek at the socket.
type idleProbe struct{}

func newIdleProbe(net.Conn) *idleProbe { return nil }

func (*idleProbe) hungUp() bool { return false }

func (*idleProbe) refused() bool { return false }
