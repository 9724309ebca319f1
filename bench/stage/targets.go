package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"creditgate/bench/cast"
	"creditgate/bench/measure"
	"creditgate/bench/result"
	"creditgate/meter/redisd"
)

// Names of targets. The others are those of bench/rivals.
const (
	Backend = "backend" // asked directly
	Free    = "free"    // the gateway, an operation that costs nothing
	Metered = "metered" // the gateway, an operation that costs a credit
	naive   = "naive"
	pgrow   = "pgrow"
	nginx   = "nginx"
)

// Labels of processes, as in result.Row.CPU.
const (
	LabelClient   = "client"
	labelBackend  = "backend"
	labelGateway  = "gateway"
	labelRedis    = "redis"
	labelPostgres = "postgres"
)

// Target is something that can be asked for what the backend gives.
type Target struct {
	Name   string
	Addrs  []string
	Priced string // path of the JSON request
	Image  string // path of the image request

	processes map[string][]int // pids by label
	redis     []*redis.Client
	gateways  []measure.Gateway
	homes     []result.Master         // what lies on each of redis, in a Cluster
	backlog   *measure.Backlog        // nil: it has no ledger
	counts    *measure.PostgresReader // nil: it has no ledger
}

// rival is a started one.
type rival struct {
	target *Target
	err    error
}

// Target returns a target, and starts it if it is a rival that does not run yet. ErrNotHere: its programs are missing.
func (s *Stage) Target(ctx context.Context, name string) (*Target, error) {
	t := &Target{
		Name: name, Priced: cast.PathPriced, Image: cast.PathImage, processes: map[string][]int{labelBackend: {s.backend.pid()}},
	}
	switch name {
	case Backend:
		t.Addrs = []string{s.address}
		return t, nil
	case Free:
		t.Priced, t.Image = cast.PathFree, cast.PathImageFree
	case Metered:
	default:
		r := s.rivals[name]
		if r == nil {
			r = &rival{target: t}
			r.err = s.startRival(ctx, t)
			s.rivals[name] = r
		}
		return r.target, r.err
	}
	t.redis, t.homes, t.backlog, t.counts = s.clients, s.homes, s.Backlog, s.counts
	t.processes[labelPostgres] = []int{s.hall.postgres.PID()}
	for _, g := range s.gateways {
		t.Addrs = append(t.Addrs, g.data)
		t.gateways = append(t.gateways, g.control)
		t.processes[labelGateway] = append(t.processes[labelGateway], g.pid())
	}
	return t, nil
}

// startRival starts a rival with servers of its own, so that what creditgate keeps does not slow it down. The database
// server is shared, as processors are.
func (s *Stage) startRival(ctx context.Context, t *Target) error {
	args := []string{
		"-backend", s.address, "-accounts", strconv.Itoa(s.Accounts), "-grants", strconv.Itoa(s.Grants),
	}
	label := labelGateway
	switch t.Name {
	case naive, nginx:
		server, err := redisd.Start(ctx, redisd.Options{Dir: filepath.Join(s.dir, t.Name+"-redis"), Log: zerolog.Nop()})
		if err != nil {
			return err
		}
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		s.closers = append(s.closers, func() error { return errors.Join(client.Close(), server.Stop()) })
		t.redis = []*redis.Client{client}
		args = append(args, "-redis", server.URL())
	case pgrow:
		url, err := s.hall.empty(ctx, fmt.Sprintf("rival_%d", s.hall.stages))
		if err != nil {
			return err
		}
		t.processes[labelPostgres] = []int{s.hall.postgres.PID()}
		args = append(args, "-postgres", url)
	}
	if t.Name == nginx {
		label = nginx
		dir := filepath.Join(s.dir, nginx)
		if err := os.Mkdir(dir, 0o750); err != nil {
			return fmt.Errorf("directory of nginx: %w", err)
		}
		args = append(args, "-dir", dir)
	}
	p, address, err := s.target(ctx, t.Name, args...)
	if err != nil {
		return err
	}
	t.Addrs, t.processes[label] = []string{address}, []int{p.pid()}
	return nil
}
