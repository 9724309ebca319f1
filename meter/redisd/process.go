package redisd

import (
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

const (
	logName  = "redis.log"
	lockName = "redisd.lock"

	logKeepMax = 1 << 20 // a log larger than this is started anew
	logTailMax = 2 << 10 // of the log, in an error: some twenty lines

	// A killed server may leave a child that rewrites the append-only file; it gives up soon, and holds the lock
	// until then.
	lockWait  = 2 * time.Second
	lockRetry = 10 * time.Millisecond
)

// process is one life of the server.
type process struct {
	cmd    *exec.Cmd
	log    string        // path
	logAt  int64         // where this life begins in the log
	exited chan struct{} // closed when it is gone; err is set before
	err    error
}

// spawn starts program in dir. The directory's lock passes to the child alone, so that it is held exactly as long
// as the server lives, whatever becomes of this process.
func spawn(ctx context.Context, program, dir string, args []string) (*process, error) {
	lock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // the child has its own descriptor
	log, at, err := openLog(filepath.Join(dir, logName))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // written by the child only

	// The server outlives ctx, which bounds its start.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = childAttr()

	p := &process{cmd: cmd, log: log.Name(), logAt: at, exited: make(chan struct{})}
	started := make(chan error)
	go p.live(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	// Names the owner to whoever finds the directory locked; being unable to is no reason not to run.
	_ = lock.Truncate(0)
	_, _ = fmt.Fprintf(lock, "%d\n", cmd.Process.Pid)
	return p, nil
}

// live forks the server and waits for its end on one OS thread: Linux sends the parent-death signal when the
// *thread* that forked ends, so no other goroutine may have the thread, and it may not end, before the child does.
func (p *process) live(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal reports nothing about a process that is already gone: that is what the caller sees in exited.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to pid %d: %w", sig, p.pid(), err)
	}
	return nil
}

// kill returns when the process is gone. SIGKILL cannot be refused, so the wait needs no bound.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exited
	return nil
}

// tail is the end of what the server logged in this life.
func (p *process) tail() string {
	f, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // read only
	at := p.logAt
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		at = max(at, size-logTailMax)
	}
	b := make([]byte, logTailMax)
	n, _ := f.ReadAt(b, at)
	return strings.TrimSpace(string(b[:n]))
}

// openLog opens the log for appending and says where it stands.
func openLog(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open the server's log: %w", err)
	}
	at, err := f.Seek(0, io.SeekEnd)
	if err == nil && at > logKeepMax {
		at, err = 0, f.Truncate(0)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, fmt.Errorf("open the server's log: %w", err)
	}
	return f, at, nil
}

// lockDir takes the directory's lock. It belongs to the open file, which a child inherits.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			break
		}
		select {
		case <-ctx.Done():
			owner, _ := io.ReadAll(io.LimitReader(f, 32))
			_ = f.Close()
			return nil, fmt.Errorf("another server (pid %s) is using %s: stop it, or choose another directory",
				strings.TrimSpace(string(owner)), dir)
		case <-time.After(lockRetry):
		}
	}
	_ = f.Close()
	return nil, fmt.Errorf("lock %s: %w", path, err)
}
