package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// Bounds of a child's life.
const (
	readyMax   = 60 * time.Second // a gateway may have accounts to load into an empty Redis
	readyPoll  = 20 * time.Millisecond
	logTailMax = 2 << 10 // bytes of a log in an error
)

// child is a process of this very program, with another command line.
type child struct {
	name    string
	program string
	args    []string
	env     []string
	log     string         // file
	ready   string         // URL that answers 200 once the child is of use
	errors  zerolog.Logger // what of the log people are shown

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the present process has ended
}

func (c *child) label() string   { return c.name }
func (c *child) logFile() string { return c.log }

func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd.Process.Pid
}

func (c *child) gone() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// again starts the process; that it is ready is not waited for.
func (c *child) again(context.Context) error {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	cmd := exec.Command(c.program, c.args...) //nolint:noctx // it is ended by stop, in order, not by a context
	cmd.Env = c.env
	out := &childLog{file: log, errors: c.errors, name: c.name}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttr()
	started, done := make(chan error), make(chan struct{})
	go live(cmd, log, started, done)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	c.mu.Lock()
	c.cmd, c.done = cmd, done
	c.mu.Unlock()
	return nil
}

// live starts a process and waits for its end on one OS thread, because Linux sends the parent-death signal when the
// thread ends that started it.
func live(cmd *exec.Cmd, log io.Closer, started chan<- error, done chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer log.Close() //nolint:errcheck // a log
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // how it ended stands in its log
		close(done)
	}
}

// startReady starts the process and returns when it is of use.
func (c *child) startReady(ctx context.Context) error {
	if err := c.again(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyMax)
	defer cancel()
	var last error
	for {
		status, err := get(ctx, c.ready)
		if err == nil && status == http.StatusOK {
			return nil
		}
		last = err
		if err == nil {
			last = fmt.Errorf("%s answers %d", c.ready, status)
		}
		select {
		case <-c.gone():
			return fmt.Errorf("%s ended while starting; %s ends:\n%s", c.name, c.log, tail(c.log))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; %s ends:\n%s", c.name, last, c.log, tail(c.log))
		case <-time.After(readyPoll):
		}
	}
}

func get(ctx context.Context, url string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// stop asks the process to end in order, and kills it when ctx ends first. One that has ended is left alone.
func (c *child) stop(ctx context.Context) error {
	c.mu.Lock()
	cmd, done := c.cmd, c.done
	c.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails only if it is gone
	_ = cmd.Process.Signal(syscall.SIGCONT) // a paused one would not hear it
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s did not stop in time and was killed; see %s", c.name, c.log)
	}
}

// tail is the end of a file, for an error.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // only read
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-logTailMax), io.SeekStart) // failing that, nothing is read
	}
	b, _ := io.ReadAll(io.LimitReader(f, logTailMax))
	return strings.TrimSpace(string(b))
}

// childLog writes a child's output to its file, and shows the errors among it.
type childLog struct {
	file   io.Writer
	errors zerolog.Logger
	name   string
	rest   []byte // of a line that has not ended
}

// lineMax bounds an unfinished line; a longer one is not looked at.
const lineMax = 64 << 10

func (l *childLog) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			break
		}
		l.show(line)
		l.rest = rest
	}
	if len(l.rest) > lineMax {
		l.rest = nil
	}
	return l.file.Write(b)
}

func (l *childLog) show(line []byte) {
	var event struct {
		Level   string `json:"level"`
		Message string `json:"message"`
		Error   string `json:"error"`
	}
	err := json.Unmarshal(line, &event)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax) && len(line) > 0: // not of the log: a refusal to start, a panic
		l.errors.Error().Msg(l.name + ": " + string(line))
	case event.Level == "error" || event.Level == "fatal":
		l.errors.Error().Str("error", event.Error).Msg(l.name + ": " + event.Message)
	}
}
