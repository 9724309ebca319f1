package postgresd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bounds of waiting. Recovery after a kill takes a second or two on a small cluster.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 15 * time.Second
	pollInterval = 20 * time.Millisecond
	attemptsMax  = 20 // of starting: a port may be taken meanwhile, a killed server's memory still be in use
)

// ErrExited says that the server ended while it was being started.
var ErrExited = errors.New("PostgreSQL exited")

// errAgain marks a failed start that is worth another attempt.
var errAgain = errors.New("try again")

// Options say where and how.
type Options struct {
	Dir    string // data and log; made if it does not exist
	Port   int    // on 127.0.0.1; 0 takes any free one
	Fresh  bool   // delete what Dir holds and start over
	NoSync bool   // no fsync: a killed machine loses data. For tests only
	// Connections is how many clients it takes; 0: 200. A gateway has a pool, at most six for lookups, and at most eight for
	// its flusher.
	Connections int
}

// connectionsUsual is enough for some gateways with a few partitions each.
const connectionsUsual = 200

// Server is one running PostgreSQL. Its methods may be called from any goroutine, one at a time.
type Server struct {
	opt      Options
	bin      Binaries
	identity identity
	data     string
	log      string
	socket   string // directory of the Unix socket
	port     int

	mu   sync.Mutex
	proc *process
}

// process is one run of the server.
type process struct {
	pid  int
	log  int64         // where its part of the log begins
	done chan struct{} // closed when it has ended
}

// Start runs PostgreSQL in opt.Dir and returns once it answers. The context bounds starting only; the server runs
// until Stop or Kill, or until this program ends.
func Start(ctx context.Context, opt Options) (*Server, error) {
	bin, err := Find(ctx)
	if err != nil {
		return nil, err
	}
	if opt.Dir, err = filepath.Abs(opt.Dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(opt.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	id, home, err := placement(ctx, bin, opt.Dir, elsewhere(opt.Dir))
	if err != nil {
		return nil, err
	}
	s := &Server{
		opt: opt, bin: bin, identity: id, port: opt.Port,
		data: filepath.Join(home, "data"), log: filepath.Join(opt.Dir, "postgres.log"),
	}
	if opt.Fresh {
		if err := os.RemoveAll(s.data); err != nil {
			return nil, fmt.Errorf("start over: %w", err)
		}
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.makeSocketDir(); err != nil {
		return nil, err
	}
	if err := s.Restart(ctx); err != nil {
		_ = os.RemoveAll(s.socket) // an empty directory in /tmp at worst
		return nil, err
	}
	return s, nil
}

// makeSocketDir makes a short path: a socket's name may have 107 bytes, which test directories exceed.
func (s *Server) makeSocketDir() (err error) {
	if s.socket, err = os.MkdirTemp("/tmp", "cgpg"); err != nil {
		return fmt.Errorf("socket directory: %w", err)
	}
	return s.identity.own(s.socket)
}

// Restart starts the server again after Stop or Kill, on the same port and data; one that runs is stopped first.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	for range attemptsMax {
		if err = s.startOnce(ctx); !errors.Is(err, errAgain) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * pollInterval):
		}
	}
	return err
}

func (s *Server) startOnce(ctx context.Context) error {
	if s.opt.Port == 0 && s.port == 0 {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		s.port = port
	}
	p, err := s.launch()
	if err != nil {
		return err
	}
	if err := s.await(ctx, p); err != nil {
		_ = syscall.Kill(p.pid, syscall.SIGQUIT) // it is of no use to anybody
		<-p.done
		return s.diagnose(p, err)
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	return nil
}

// diagnose marks failures that another attempt may not meet.
func (s *Server) diagnose(p *process, err error) error {
	switch why := tail(s.log, p.log); {
	case s.opt.Port == 0 && strings.Contains(why, "Address already in use"):
		s.port = 0 // somebody took the free port first
	case strings.Contains(why, "pre-existing shared memory block"):
		// a killed server's children end a moment after it
	default:
		return err
	}
	return fmt.Errorf("%w: %w", errAgain, err)
}

// launch starts the process from a thread that stays until it ends: the parent-death signal is sent when the
// starting *thread* dies, and Go ends idle threads at will.
func (s *Server) launch() (*process, error) {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	connections := s.opt.Connections
	if connections == 0 {
		connections = connectionsUsual
	}
	args := []string{
		"-D", s.data, "-k", s.socket, "-h", "127.0.0.1", "-p", strconv.Itoa(s.port),
		"-c", "max_connections=" + strconv.Itoa(connections), "-c", "logging_collector=off", "-c", "timezone=UTC",
	}
	if s.opt.NoSync {
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off")
	}
	cmd := exec.Command(s.bin.path("postgres"), args...) //nolint:noctx // it outlives the context of its start
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = s.identity.sysProcAttr()
	p := &process{done: make(chan struct{})}
	if info, err := log.Stat(); err == nil {
		p.log = info.Size()
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		_ = log.Close() // the child has its own copy
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended stands in its log
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// await returns once the server takes connections. It asks on the private socket: on the port another server may
// answer, while this one ends because it could not have it.
func (s *Server) await(ctx context.Context, p *process) error {
	for {
		conn, err := pgx.Connect(ctx, s.socketURL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-p.done:
			return fmt.Errorf("%w while starting; the end of %s:\n%s", ErrExited, s.log, tail(s.log, p.log))
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL in %s does not answer (%w): %w", s.data, ctx.Err(), err)
		case <-time.After(pollInterval):
		}
	}
}

// URL is the connection string of a database, as superuser.
func (s *Server) URL(db string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", superuser, s.port, db)
}

func (s *Server) socketURL(db string) string {
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d&sslmode=disable", superuser, db, s.socket, s.port)
}

// Addr is host and port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// PID is the postmaster's process id, 0 while it does not run.
func (s *Server) PID() int {
	if p := s.running(); p != nil {
		return p.pid
	}
	return 0
}

// Done is closed when the server's current run has ended, by whatever cause.
func (s *Server) Done() <-chan struct{} {
	if p := s.running(); p != nil {
		return p.done
	}
	ended := make(chan struct{})
	close(ended)
	return ended
}

// Stop shuts the server down: clients are cut off, what they committed is kept. Stopping twice is fine.
func (s *Server) Stop() error {
	p := s.running()
	if p == nil {
		return nil
	}
	_ = s.Resume()                          // a frozen server would not hear the signal
	_ = syscall.Kill(p.pid, syscall.SIGINT) // fails only if it is gone already
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("PostgreSQL in %s did not stop within %s", s.data, stopTimeout), s.Kill())
	}
}

// Close stops the server for good and removes its socket directory.
func (s *Server) Close() error {
	return errors.Join(s.Stop(), os.RemoveAll(s.socket))
}

// Remove closes the server and deletes its data, wherever that lies.
func (s *Server) Remove() error { return errors.Join(s.Close(), os.RemoveAll(s.data)) }

// Kill ends every process of the server with SIGKILL, as a machine that loses power would.
func (s *Server) Kill() error {
	p := s.running()
	if p == nil {
		return nil
	}
	err := s.signal(syscall.SIGKILL)
	<-p.done
	return err
}

// Pause freezes every process of the server: connections stay open and nobody answers.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume lets a frozen server go on.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

// signal reaches the postmaster first, so that it starts no more children, then each child.
func (s *Server) signal(sig syscall.Signal) error {
	p := s.running()
	if p == nil {
		return nil
	}
	kids, err := children(p.pid)
	if err != nil {
		return err
	}
	if err := syscall.Kill(p.pid, sig); err != nil {
		return fmt.Errorf("signal %d to PostgreSQL: %w", sig, err)
	}
	if more, err := children(p.pid); err == nil {
		kids = append(kids, more...)
	}
	for _, pid := range kids {
		_ = syscall.Kill(pid, sig) // it may have ended meanwhile
	}
	return nil
}

func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	select {
	case <-s.proc.done:
		return nil
	default:
		return s.proc
	}
}

// freePort picks a port below the range that systems use for outgoing connections (32768 on Linux, 49152 elsewhere),
// so that nobody else takes it while the server is down between Kill and Restart.
func freePort(ctx context.Context) (int, error) {
	const low, high, tries = 15000, 32000, 50
	var err error
	for range tries {
		port := low + rand.IntN(high-low)
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port between %d and %d: %w", low, high, err)
}
