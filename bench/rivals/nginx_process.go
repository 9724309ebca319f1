package rivals

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// live forks nginx and waits for its end on one OS thread: Linux sends the parent-death signal when the thread that
// forked ends.
func (p *nginxProcess) live(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	_ = p.cmd.Wait() // how it ended stands in its log
	close(p.exited)
}

// await returns once nginx takes connections.
func (p *nginxProcess) await(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, nginxReadyMax)
	defer cancel()
	var dial net.Dialer
	for {
		conn, err := dial.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.exited:
			return p.diagnose(errors.New("nginx did not start"))
		case <-ctx.Done():
			return p.diagnose(fmt.Errorf("nginx was not ready: %w", err))
		case <-time.After(nginxReadyPoll):
		}
	}
}

// stop ends nginx and its workers. Requests in flight are cut off: nothing is measured any more.
func (p *nginxProcess) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop nginx: %w", err)
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(nginxStopMax):
	}
	err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // the workers are of its group
	<-p.exited
	return errors.Join(errors.New("nginx did not stop within "+nginxStopMax.String()+" and was killed"), err)
}

// diagnose adds the end of nginx's log to err.
func (p *nginxProcess) diagnose(err error) error {
	text, readErr := os.ReadFile(p.log)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return fmt.Errorf("%w; the end of %s:\n%s", err, p.log, text[max(0, len(text)-nginxLogTailMax):])
}
