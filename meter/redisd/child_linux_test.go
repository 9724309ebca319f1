package redisd_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"creditgate/meter/redisd"
)

// The parent-death signal is tied to the thread that forked. Here the thread that asked for the server ends; the
// server must not.
func TestServerOutlivesTheThreadThatStartedIt(t *testing.T) {
	t.Parallel()
	type started struct {
		server *redisd.Server
		thread int
	}
	var s started
	for s.thread == 0 || s.thread == os.Getpid() { // the main thread is parked, not ended
		starts := make(chan started, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			starts <- started{redisd.Test(t), syscall.Gettid()}
		}()
		s = <-starts
	}
	require.Eventually(t, func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", s.thread))
		return os.IsNotExist(err)
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, client(t, s.server).Ping(t.Context()).Err())
}

func TestServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	addr, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	conn, err := net.Dial("tcp", strings.TrimSpace(addr))
	require.NoError(t, err)
	defer conn.Close()

	require.NoError(t, parent.Process.Kill())
	require.Error(t, parent.Wait())
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the server still lives")

	s, err := redisd.Start(t.Context(), redisd.Options{Dir: dir}) // its lock went with it
	require.NoError(t, err)
	require.NoError(t, s.Stop())
}
