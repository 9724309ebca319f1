package redisd

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"
)

// childAttr makes the kernel kill the child when its parent dies, however that happens. SIGKILL, because a paused
// child would not see SIGTERM; the append-only file survives it. A process group of its own keeps a terminal's
// Ctrl-C away from the server: whoever started it decides when, after those that still need it.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

const (
	pauseMax   = 5 * time.Second // a stop is taken at the next return from the kernel; a disk wait may delay it
	pauseRetry = time.Millisecond
)

// awaitStopped returns when p is stopped, since a signal takes effect a moment after it was sent. The main thread
// is the one that executes commands, and its state is the process's.
func awaitStopped(p *process) error {
	path := fmt.Sprintf("/proc/%d/stat", p.pid())
	for deadline := time.Now().Add(pauseMax); time.Now().Before(deadline); {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// "pid (name) state ...": the name may hold anything, a parenthesis too.
		if _, rest, ok := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" ")); ok && bytes.HasPrefix(rest, []byte("T")) {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it ended: %w", exitError(p.err))
		case <-time.After(pauseRetry):
		}
	}
	return fmt.Errorf("pid %d did not stop within %s", p.pid(), pauseMax)
}
