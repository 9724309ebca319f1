package redisd

import "context"

// TB is what Test needs of a testing.TB. Package testing itself stays out of the binary, which carries this package
// for `creditgate dev`.
type TB interface {
	Helper()
	TempDir() string
	Cleanup(fn func())
	Context() context.Context
	Fatal(args ...any)
	Error(args ...any)
}

// Test starts a server for one test or benchmark, in a temporary directory. It is killed when the test ends: its
// data goes with the directory. args are as in Options.Args.
func Test(tb TB, args ...string) *Server {
	tb.Helper()
	dir := tb.TempDir() // before Cleanup, so that it is removed after the server is gone
	s, err := Start(tb.Context(), Options{Dir: dir, Args: append(onKernel(), args...)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Kill(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// TestCluster starts a cluster of masters for one test, as Test does a server.
func TestCluster(tb TB, masters int, args ...string) *Cluster {
	tb.Helper()
	dir := tb.TempDir()
	c, err := StartCluster(tb.Context(), masters, Options{Dir: dir, Args: append(onKernel(), args...)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Kill(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// onKernel leaves the moment at which the append-only file reaches the disk to the kernel. With a fsync every second Redis
// keeps writes back for up to two seconds while a slow disk is busy with the last fsync, and a kill then loses them. A test
// that kills Redis would fail on a busy machine for a loss that is not the gateway's.
func onKernel() []string { return []string{"--appendfsync", "no"} }
