package meter_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// instructionsShare is how far a count of instructions may move: Redis hashes with a random seed, looks at its clock now
// and then, and lets Lua's collector make a step every 50 scripts. Repeated counts mostly differ by less than 0.5 %.
const instructionsShare = 0.03

// callgrindWait bounds one command to valgrind, which answers within a second.
const callgrindWait = 20 * time.Second

// callgrind counts the instructions of one process that runs under valgrind. A nil one counts nothing.
type callgrind struct {
	valgrind string
	dir      string
	pid      int
	dumps    int
}

// findCallgrind returns nil, having said why, where instructions cannot be counted.
func findCallgrind(t *testing.T, dir string) *callgrind {
	t.Helper()
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		sayf("instructions: valgrind is not installed, not counted")
		return nil
	}
	return &callgrind{valgrind: valgrind, dir: dir}
}

// command runs a program under valgrind, not instrumented before attach: starting would take seconds.
func (c *callgrind) command() []string {
	return []string{
		c.valgrind, "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=" + c.out(),
		"--vgdb-prefix=" + c.vgdb(), // its pipes go with the directory, also when the process is killed
	}
}

func (c *callgrind) out() string  { return filepath.Join(c.dir, "callgrind.out") }
func (c *callgrind) vgdb() string { return filepath.Join(c.dir, "vgdb") }

// attach returns nil, having said why, where valgrind cannot be spoken to: it needs ptrace, which a container may bar.
func (c *callgrind) attach(t *testing.T, pid int) *callgrind {
	t.Helper()
	if c == nil {
		return nil
	}
	c.pid = pid
	if err := c.tell(t, "instrumentation", "on"); err != nil {
		sayf("instructions: not counted: %v", err)
		return nil
	}
	return c
}

// tell gives valgrind a command, as callgrind_control does.
func (c *callgrind) tell(t *testing.T, command ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callgrindWait)
	defer cancel()
	args := append([]string{"--vgdb-prefix=" + c.vgdb(), fmt.Sprintf("--pid=%d", c.pid)}, command...)
	out, err := exec.CommandContext(ctx, filepath.Join(filepath.Dir(c.valgrind), "vgdb"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("vgdb %v: %w: %s", command, err, out)
	}
	return nil
}

// begin counts from here on.
func (c *callgrind) begin(t *testing.T) {
	t.Helper()
	if c != nil {
		require.NoError(t, c.tell(t, "zero"))
	}
}

// end returns how many instructions ran since begin.
func (c *callgrind) end(t *testing.T) float64 {
	t.Helper()
	if c == nil {
		return 0
	}
	require.NoError(t, c.tell(t, "dump"))
	c.dumps++
	b, err := os.ReadFile(fmt.Sprintf("%s.%d", c.out(), c.dumps))
	require.NoError(t, err)
	for line := range bytes.Lines(b) {
		if total, ok := strings.CutPrefix(string(line), "totals: "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(total), 64)
			require.NoError(t, err)
			return n
		}
	}
	require.Fail(t, "callgrind's dump has no totals", "%s", b)
	return 0
}
