package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Bounds of a process.
const (
	readyMax    = 2 * time.Minute // a target may have a million accounts to make
	stopMax     = 30 * time.Second
	logTailMax  = 2 << 10 // bytes of a log in an error
	readyLines  = 1000    // of output that may come before the one that is waited for
	statusAway  = 3       // how a target ends whose programs are not installed
	lineSizeMax = 1 << 20
)

// ErrNotHere says that a target's programs are not installed.
var ErrNotHere = errors.New("not here")

// process is a child. It ends with this process (Linux), and when it is told to.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// launch starts a program and returns the first line of its output that accept takes. All its output goes to a file in
// dir, too.
func launch(ctx context.Context, dir, name string, cmd *exec.Cmd, accept func(line string) bool) (*process, string, error) {
	p := &process{name: name, cmd: cmd, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("log of %s: %w", name, err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		_ = log.Close()
		return nil, "", fmt.Errorf("pipe to %s: %w", name, err)
	}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = in, in, childAttr()
	started := make(chan error, 1)
	go p.live(started, in)
	if err := <-started; err != nil {
		_, _ = out.Close(), log.Close()
		return nil, "", fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	found := make(chan string, 1)
	go watch(out, log, accept, found)
	select {
	case line, ok := <-found:
		if ok {
			return p, line, nil
		}
		<-p.done
		err = fmt.Errorf("%s ended with %s; %s ends:\n%s", name, cmd.ProcessState, p.log, tail(p.log))
		if cmd.ProcessState.ExitCode() == statusAway {
			err = fmt.Errorf("%w: %w", ErrNotHere, err)
		}
		return nil, "", err
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(readyMax):
		err = fmt.Errorf("not within %s", readyMax)
	}
	err = fmt.Errorf("%s did not say that it is ready: %w; %s ends:\n%s", name, err, p.log, tail(p.log))
	return nil, "", errors.Join(err, p.stop())
}

// live starts the process and waits for its end on one thread: Linux tells a child of its parent's death when the
// thread ends that started it.
func (p *process) live(started chan<- error, in *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	_ = in.Close() // the child has its own
	started <- err
	if err == nil {
		_ = p.cmd.Wait() // how it ended is in its state
		close(p.done)
	}
}

// watch copies output to the log to its end: a pipe that nobody reads would stop the child. found is closed if the line
// never came.
func watch(out, log *os.File, accept func(string) bool, found chan<- string) {
	defer out.Close() //nolint:errcheck // only read
	defer log.Close() //nolint:errcheck // a log
	defer close(found)
	lines := bufio.NewScanner(io.TeeReader(out, log))
	lines.Buffer(nil, lineSizeMax)
	for range readyLines {
		if !lines.Scan() {
			return
		}
		if line := lines.Text(); accept(line) {
			found <- line
			break
		}
	}
	_, _ = io.Copy(log, out) // ends with the child
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the process to end, and kills it when it does not.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it is gone
	select {
	case <-p.done:
		return nil
	case <-time.After(stopMax):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %s and was killed; see %s", p.name, stopMax, p.log)
	}
}

// tail is the end of a file, for an error.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-logTailMax):]))
}
