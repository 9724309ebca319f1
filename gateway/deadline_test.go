package gateway

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// connected is a patient connection and its peer, over the loopback.
func connected(t *testing.T) (*patientConn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	c, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = c.Close(), peer.Close() })
	return &patientConn{Conn: c}, peer
}

// A deadline that was moved on before it passed ends nothing: neither a read that waits nor a write half done.
func TestMovedDeadlineEndsNothing(t *testing.T) {
	t.Parallel()
	c, peer := connected(t)
	soon := time.Now().Add(20 * time.Millisecond)
	require.NoError(t, c.SetDeadline(soon))
	require.NoError(t, c.SetDeadline(soon.Add(time.Minute)))
	require.Equal(t, soon, c.read.armed, "the runtime was not told")

	go func() {
		<-time.After(time.Until(soon) + 30*time.Millisecond) // after the deadline that the runtime knows
		_, _ = peer.Write([]byte("x"))
	}()
	var b [1]byte
	n, err := c.Read(b[:])
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, c.read.asked, c.read.armed, "told after the vain wake-up")

	sent := make([]byte, 16<<20) // more than the loopback buffers: it blocks until the peer reads
	got := make(chan int)
	go func() {
		<-time.After(30 * time.Millisecond)
		n, buf := 0, make([]byte, 1<<20)
		for n < len(sent) {
			more, err := peer.Read(buf)
			if err != nil {
				break
			}
			n += more
		}
		got <- n
	}()
	n, err = c.Write(sent)
	require.NoError(t, err)
	require.Equal(t, len(sent), n)
	require.Equal(t, len(sent), <-got)
}

// A deadline that was not moved ends the read, and so does one that was moved nearer.
func TestDeadlineEnds(t *testing.T) {
	t.Parallel()
	for name, moves := range map[string][]time.Duration{
		"never moved":           {20 * time.Millisecond},
		"moved nearer":          {time.Minute, 20 * time.Millisecond},
		"moved on, then nearer": {10 * time.Millisecond, time.Minute, 20 * time.Millisecond},
		"moved on a little":     {10 * time.Millisecond, 40 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := connected(t)
			for _, d := range moves {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(d)))
			}
			asked := c.read.asked
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.False(t, time.Now().Before(asked), "no earlier than asked")
			var timeout net.Error
			require.True(t, errors.As(err, &timeout) && timeout.Timeout())
			require.NoError(t, c.SetReadDeadline(time.Time{}))
			require.True(t, c.read.armed.IsZero())
		})
	}
}
