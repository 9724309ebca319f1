package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"creditgate/bench/measure"
	"creditgate/bench/result"
	"creditgate/meter"
	"creditgate/meter/redisd"
	"creditgate/persist"
)

// Options say what is set up. Two stages with equal options are the same stage.
type Options struct {
	Accounts   int
	Grants     int // live ones of each account
	Partitions int
	Gateways   int
	Masters    int           // of a Redis Cluster; 0: one Redis that is none
	Delay      time.Duration // of the backend
	Renewing   bool          // every account has a subscription whose month ends at one midnight, and time can be moved
}

// layoutNumber is that of every stage: each has a Redis and a database of its own.
const layoutNumber = 1

// sinceMade is how old everything on a stage is, so that no clock takes it for the future.
const sinceMade = time.Hour

// Stage is a running set-up.
type Stage struct {
	Options

	Backlog     *measure.Backlog
	LoadSeconds float64 // that it took to bring all accounts into Redis

	clock    meter.Clock
	renewal  *renewal // nil: nobody has a subscription
	empty    float64  // Redis' memory before there were accounts
	dir      string
	hall     *Hall
	layout   meter.Layout
	redisURL string
	clients  []*redis.Client // of the masters
	homes    []result.Master // what lies on each, in a Cluster
	counts   *measure.PostgresReader
	store    *persist.Store
	writer   string // URL of the database, for gateways
	backend  *process
	address  string // of the backend
	gateways []*gateway
	rivals   map[string]*rival
	closers  []func() error // in the order of starting
}

// Start sets everything up but the rivals, which start when they are first asked for.
func (h *Hall) Start(ctx context.Context, o Options) (_ *Stage, err error) {
	h.stages++
	s := &Stage{
		Options: o, hall: h, dir: filepath.Join(h.dir, fmt.Sprintf("stage-%d", h.stages)), rivals: map[string]*rival{},
		layout: meter.Layout{Number: layoutNumber, Partitions: uint16(o.Partitions)},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the directory of a stage: %w", err)
	}
	s.closers = append(s.closers, func() error { return os.RemoveAll(s.dir) })
	if err := s.startRedis(ctx); err != nil {
		return nil, err
	}
	if err := s.fill(ctx); err != nil {
		return nil, err
	}
	if err := s.startBackend(ctx); err != nil {
		return nil, err
	}
	return s, s.startGateways(ctx)
}

func (s *Stage) startRedis(ctx context.Context) error {
	o := redisd.Options{Dir: filepath.Join(s.dir, "redis"), Log: zerolog.Nop()}
	if s.Masters > 0 {
		return s.startCluster(ctx, o)
	}
	server, err := redisd.Start(ctx, o)
	if err != nil {
		return err
	}
	s.closers, s.redisURL = append(s.closers, server.Stop), server.URL()
	s.connect(server)
	return nil
}

func (s *Stage) connect(server *redisd.Server) {
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	s.clients, s.closers = append(s.clients, client), append(s.closers, client.Close)
}

// fill makes the accounts, in Postgres and in Redis.
func (s *Stage) fill(ctx context.Context) error {
	owner, writer, err := s.hall.database(ctx)
	if err != nil {
		return err
	}
	s.writer = writer
	if s.Renewing {
		if err := s.beginRenewal(ctx, owner); err != nil {
			return err
		}
	}
	if s.store, err = persist.Open(ctx, writer, s.layout, &s.clock); err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.store.Close(); return nil })
	if err := s.store.EnsureLayout(ctx); err != nil {
		return err
	}
	a := accounts{
		n: s.Accounts, grants: s.Grants, made: s.clock.Now().Add(-sinceMade).Truncate(time.Millisecond).UTC(), renewal: s.renewal,
	}
	if err := seed(ctx, owner, s.layout, a); err != nil {
		return err
	}
	if s.empty, err = s.memory(ctx); err != nil {
		return err
	}
	began := time.Now()
	engine, err := startEngine(ctx, s.redisURL, book{epochs: s.store, accounts: a, layout: s.layout}, &s.clock)
	if err != nil {
		return err
	}
	s.LoadSeconds = time.Since(began).Seconds()
	if err := errors.Join(engine.Close(), s.rest(ctx)); err != nil {
		return err
	}
	if s.Backlog, err = measure.NewBacklog(s.layout, s.redisURL, s.store); err != nil {
		return err
	}
	s.closers = append(s.closers, s.Backlog.Close)
	if s.counts, err = measure.NewPostgresReader(ctx, owner); err != nil {
		return err
	}
	s.closers = append(s.closers, s.counts.Close)
	return nil
}

func (s *Stage) startBackend(ctx context.Context) (err error) {
	s.backend, s.address, err = s.target(ctx, "backend", "-delay", s.Delay.String())
	return err
}

// target starts `bench target NAME` and returns the address that it says.
func (s *Stage) target(ctx context.Context, name string, args ...string) (*process, string, error) {
	args = append([]string{"target", name, "-listen", "127.0.0.1:0"}, args...)
	cmd := exec.Command(s.hall.self, args...) //nolint:noctx // it is told to end, in its turn
	p, line, err := launch(ctx, s.dir, name, cmd, func(line string) bool { return strings.HasPrefix(line, "ready ") })
	if err != nil {
		return nil, "", err
	}
	s.closers = append(s.closers, p.stop)
	return p, strings.TrimPrefix(line, "ready "), nil
}

// Close ends everything, last started first.
func (s *Stage) Close() error {
	var errs []error
	for _, end := range slices.Backward(s.closers) {
		errs = append(errs, end())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// OneConnection is a client of the stage's first Redis with a connection of its own, and no more.
func (s *Stage) OneConnection() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.clients[0].Options().Addr, PoolSize: 1})
}

// metricLag is the gauge that Lag reads, one for each partition.
const metricLag = "creditgate_ledger_lag_seconds"

// Lag is how old the oldest record is that a gateway has read and Postgres has not, in seconds; of all partitions and
// gateways, the largest.
func (s *Stage) Lag(ctx context.Context) (float64, error) {
	gateways := make([]measure.Gateway, len(s.gateways))
	for i, g := range s.gateways {
		gateways[i] = g.control
	}
	return measure.Largest(ctx, gateways, metricLag)
}
