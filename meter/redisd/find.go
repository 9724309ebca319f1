package redisd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// programs are tried in this order, on PATH first and then in the places that packages use but PATH may lack.
func programs() []string { return []string{"redis-server", "valkey-server"} }

func places() []string {
	return []string{
		"/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin",
		"/opt/homebrew/bin", "/opt/homebrew/opt/redis/bin", "/opt/homebrew/opt/valkey/bin",
		"/home/linuxbrew/.linuxbrew/bin",
	}
}

// find returns the server program, or an error that names the fix.
func find(dirs []string) (string, error) {
	for _, name := range programs() {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
		for _, dir := range dirs {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("redisd: found neither %s on PATH (%s) nor in %s: install one "+
		"(apt-get install redis-server, or brew install redis; make run and make test do it for you)",
		strings.Join(programs(), " nor "), os.Getenv("PATH"), strings.Join(dirs, ", "))
}

// Ports are taken from below the range that Linux (32768) and macOS (49152) give to outgoing connections. From
// within it, a client's connection could take the port while the server is down, and a restart on the same port
// would fail.
const (
	portFirst       = 20000
	portLast        = 29999
	portAttemptsMax = 100 // of 10,000; with even a thousand in use all would be taken once in 10^100
)

// freePort returns a port that nothing listened on a moment ago. Another process may be quicker: Start then tries
// the next.
func freePort(ctx context.Context) (int, error) {
	var last error
	var config net.ListenConfig
	for range portAttemptsMax {
		port := portFirst + rand.IntN(portLast-portFirst+1)
		l, err := config.Listen(ctx, "tcp", hostPort(port))
		if err == nil {
			return port, l.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("redisd: no free port between %d and %d on 127.0.0.1: give one in Options.Port: %w",
		portFirst, portLast, last)
}

func hostPort(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
