package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/rs/zerolog"

	"creditgate/meter/redisd"
	"creditgate/persist"
	"creditgate/persist/postgresd"
)

// The database and the logins of a dev run.
const (
	devDatabase = "creditgate"
	devWriter   = "creditgate" // member of the writer role: what the gateway connects as
	devFinance  = "finance"    // member of finance_reader
)

// part is a process that is kept alive.
type part interface {
	label() string
	pid() int
	gone() <-chan struct{} // closed when the present process has ended
	again(ctx context.Context) error
	logFile() string
}

type redisPart struct {
	*redisd.Server
}

func startRedis(ctx context.Context, dir string) (*redisPart, error) {
	s, err := redisd.Start(ctx, redisd.Options{Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		return nil, err
	}
	return &redisPart{s}, nil
}

func (r *redisPart) label() string                   { return "redis" }
func (r *redisPart) pid() int                        { return r.PID() }
func (r *redisPart) gone() <-chan struct{}           { return r.Exited() }
func (r *redisPart) again(ctx context.Context) error { return r.Restart(ctx) }
func (r *redisPart) logFile() string                 { return r.Dir() + "/redis.log" }

type postgresPart struct {
	*postgresd.Server
	dir string
}

// startPostgres starts the server, and makes database, schema and logins where they are missing.
func startPostgres(ctx context.Context, o postgresd.Options) (_ *postgresPart, err error) {
	s, err := postgresd.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	p := &postgresPart{s, o.Dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.CreateDatabase(ctx, devDatabase); err != nil {
		return nil, err
	}
	if err := persist.Migrate(ctx, p.ownerURL()); err != nil {
		return nil, err
	}
	if err := persist.EnsureLogin(ctx, p.ownerURL(), devWriter, persist.WriterRole); err != nil {
		return nil, err
	}
	return p, persist.EnsureLogin(ctx, p.ownerURL(), devFinance, persist.FinanceRole)
}

func (p *postgresPart) label() string                   { return "postgres" }
func (p *postgresPart) pid() int                        { return p.PID() }
func (p *postgresPart) gone() <-chan struct{}           { return p.Done() }
func (p *postgresPart) again(ctx context.Context) error { return p.Restart(ctx) }
func (p *postgresPart) logFile() string                 { return p.dir + "/postgres.log" }

// ownerURL is the database as the owner of its schema.
func (p *postgresPart) ownerURL() string { return p.URL(devDatabase) }

// writerURL is the database as the gateway sees it.
func (p *postgresPart) writerURL() string {
	u, err := url.Parse(p.ownerURL())
	if err != nil {
		return p.ownerURL() // made by postgresd: it parses
	}
	u.User = url.User(devWriter)
	return u.String()
}

// choosePort returns an address on the loopback interface with the wanted port, or with any free one for 0.
func choosePort(ctx context.Context, flag string, port int) (string, error) {
	if port != 0 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			return "", fmt.Errorf("--%s: %s is taken by another program; stop it, or use --%s 0 for any free port", flag, addr, flag)
		}
		if err != nil {
			return "", fmt.Errorf("--%s: %w", flag, err)
		}
		return addr, l.Close()
	}
	// Below the range for outgoing connections, so that nobody takes it while a killed process is started again.
	const low, high, tries = 15000, 32000, 50
	var err error
	for range tries {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(low+rand.IntN(high-low)))
		var l net.Listener
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// withoutSettings drops CREDITGATE_* variables, for a process that would not know them.
func withoutSettings(environ []string) (out []string) {
	for _, line := range environ {
		if !strings.HasPrefix(line, envPrefix) {
			out = append(out, line)
		}
	}
	return out
}

func isSet(environ []string, name string) bool {
	for _, line := range environ {
		if strings.HasPrefix(line, name+"=") {
			return true
		}
	}
	return false
}
