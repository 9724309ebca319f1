//go:build !unix

package gateway

import "net"

// hungUp cannot be known without a peek at the socket.
func hungUp(net.Conn) bool { return false }
