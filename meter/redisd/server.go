package redisd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

const (
	startMax      = 30 * time.Second // loads some gigabytes of append-only file; an empty one takes 30 ms
	stopMax       = 10 * time.Second // an orderly stop writes at most a second of data
	startAttempts = 5                // ports tried when Options.Port is 0; each loses only to a race of milliseconds
)

var errNoDir = errors.New("redisd: Options.Dir is empty: name the directory that shall hold the server's data")

// Options say where a server lives. The zero value of each but Dir is a good one.
type Options struct {
	// Dir holds data, log and lock. It is made if it does not exist; data found in it is served.
	Dir string
	// Port on 127.0.0.1; 0 takes any free one.
	Port int
	// Args are added to the command line and win over this package's settings, except for where the server
	// listens and keeps its data: "--maxmemory", "64mb".
	Args []string
	// Under is a program with its arguments that runs the server in its own process: "valgrind", "--tool=callgrind".
	Under []string
	// Log receives one line for each start and stop. The server's own log is redis.log in Dir.
	Log zerolog.Logger
}

// Server is a private server. Its methods may be called from any goroutine; one at a time takes effect.
type Server struct {
	program string
	dir     string
	port    int
	args    []string
	under   []string
	log     zerolog.Logger

	mu sync.Mutex // held while the server changes its state
	p  *process   // the present life, or the last one
}

// Start starts a server and returns when it answers. ctx bounds the start, not the server's life.
func Start(ctx context.Context, o Options) (*Server, error) {
	program, err := find(places())
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		return nil, errNoDir
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("redisd: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("redisd: make the data directory: %w", err)
	}
	s := &Server{program: program, dir: dir, port: o.Port, args: o.Args, under: o.Under, log: o.Log}
	if o.Port == 0 {
		err = s.startOnFreePort(ctx)
	} else {
		err = s.start(ctx)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) startOnFreePort(ctx context.Context) (err error) {
	for range startAttempts {
		if s.port, err = freePort(ctx); err != nil {
			return err
		}
		if err = s.start(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// start begins a new life on the port and data of the last. The caller holds mu, or is the only one to know s.
func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	began := time.Now()
	line := slices.Concat(s.under, []string{s.program}, s.commandLine())
	p, err := spawn(ctx, line[0], s.dir, line[1:])
	if err != nil {
		return fmt.Errorf("redisd: %w", err)
	}
	if err := p.ready(ctx, s.Addr()); err != nil {
		_ = p.kill()
		return fmt.Errorf("redisd: %s on %s did not start: %w\nits log %s ends:\n%s", s.program, s.Addr(), err, p.log, p.tail())
	}
	s.p = p
	s.log.Info().Str("addr", s.Addr()).Int("pid", p.pid()).Str("dir", s.dir).Dur("took", time.Since(began)).Msg("redis started")
	return nil
}

// commandLine is ours, then the caller's, then what may not be changed: of a setting given twice the last one counts.
func (s *Server) commandLine() []string {
	args := []string{
		"--appendonly", "yes", "--appendfsync", "everysec", // two seconds may be lost, with the process too if the disk is slow
		"--maxmemory-policy", "noeviction", // an evicted account would be lost credit
		"--save", "", // snapshots would only add forks to what the append-only file has
	}
	args = append(args, s.args...)
	return append(
		args,
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port),
		"--dir", s.dir, "--logfile", "", "--daemonize", "no", // standard output is the log, early errors included
	)
}

// Stop ends the server in order, writing what it holds. A server that is not running is left alone.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop()
}

func (s *Server) stop() error {
	if !s.p.alive() {
		return nil
	}
	// A paused server would take the signal only when resumed.
	if err := errors.Join(s.p.signal(syscall.SIGTERM), s.p.signal(syscall.SIGCONT)); err != nil {
		return fmt.Errorf("redisd: %w", err)
	}
	select {
	case <-s.p.exited:
		s.log.Info().Str("addr", s.Addr()).Msg("redis stopped")
		return nil
	case <-time.After(stopMax):
		_ = s.p.kill()
		return fmt.Errorf("redisd: %s did not stop within %s and was killed; its log %s ends:\n%s",
			s.Addr(), stopMax, s.p.log, s.p.tail())
	}
}

// Kill ends the server at once, as a crash would (SIGKILL), and returns when it is gone.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.p.kill(); err != nil {
		return fmt.Errorf("redisd: %w", err)
	}
	s.log.Info().Str("addr", s.Addr()).Msg("redis killed")
	return nil
}

// Pause stops the server in its tracks (SIGSTOP): connections stay open and nothing answers. When Pause has
// returned, the server executes nothing (Linux; elsewhere: within moments).
func (s *Server) Pause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.p.alive() {
		return fmt.Errorf("redisd: pause %s: it is not running", s.Addr())
	}
	if err := errors.Join(s.p.signal(syscall.SIGSTOP), awaitStopped(s.p)); err != nil {
		return fmt.Errorf("redisd: pause %s: %w", s.Addr(), err)
	}
	return nil
}

// Resume undoes Pause.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.p.signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("redisd: resume %s: %w", s.Addr(), err)
	}
	return nil
}

// Restart starts the server again on the same port and data, and returns when it answers. One that is running is
// stopped in order before.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stop(); err != nil {
		return err
	}
	return s.start(ctx)
}

// Exited is closed when the present life of the server ends, however it does. After a Restart ask again.
func (s *Server) Exited() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.exited
}

// PID is the process id of the present life, or of the last one.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.pid()
}

// Addr is host:port; it stays the same over restarts.
func (s *Server) Addr() string { return hostPort(s.port) }

// URL is Addr in the form of CREDITGATE_REDIS_URL.
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// Dir is the absolute path of the directory with data and log.
func (s *Server) Dir() string { return s.dir }
