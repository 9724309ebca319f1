package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"creditgate/persist/postgresd"
)

// devOptions are the flags of `creditgate dev`.
type devOptions struct {
	dir       string
	port      int
	adminPort int
	policy    string
	fresh     bool
	noRestart bool
}

func (a *app) devCommand() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine: Redis, Postgres, a backend, the gateway, demo accounts",
		Long: "Run everything on this machine, as processes of their own: a private Redis and a private Postgres with their data\n" +
			"under --dir, the stand-in image backend, and the gateway, with demo accounts. A process that is killed is started\n" +
			"again on the same port. Ctrl-C stops all of it; the data stays for the next time.\n\n" +
			"CREDITGATE_* variables reach the gateway, such as CREDITGATE_UPSTREAM_TIMEOUT=2s.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dev(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", ".creditgate", "directory for data, logs and dev.json")
	f.IntVar(&o.port, "port", 8080, "port of the data plane on 127.0.0.1; 0 takes any free one")
	f.IntVar(&o.adminPort, "admin-port", 8081, "port of the control plane on 127.0.0.1; 0 takes any free one")
	f.StringVar(&o.policy, "policy", "", "policy file or directory of them; default: a copy of the embedded dev policy in --dir")
	f.BoolVar(&o.fresh, "fresh", false, "delete the data of earlier runs in --dir and start over")
	f.BoolVar(&o.noRestart, "no-restart", false, "leave a process that is killed dead")
	f.SortFlags = false
	return cmd
}

// devStop bounds how long the parts may take to end in order; what is left is killed.
const devStop = 30 * time.Second

// dev is one run of `creditgate dev`.
type dev struct {
	app      *app
	options  devOptions
	dir      *devDir
	log      zerolog.Logger
	products []devProduct

	dataAddr, adminAddr, backendAddr string

	redis    *redisPart
	postgres *postgresPart
	backend  *child
	gateway  *child

	telling sync.Mutex // one writer of dev.json at a time
}

func (a *app) dev(ctx context.Context, o devOptions) (err error) {
	began := time.Now()
	dir, err := openDevDir(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.close()) }()
	if o.fresh {
		if err := dir.clear(); err != nil {
			return err
		}
	}
	d := &dev{app: a, options: o, dir: dir, log: consoleLog(a.err)}
	d.log.Info().Msgf("starting Redis, Postgres, backend and gateway in %s", o.dir)
	if err := d.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.startParts(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // Ctrl-C while starting
		}
		return err
	}
	if err := d.seed(ctx); err != nil {
		return err
	}
	if err := d.writeJSON(); err != nil {
		return err
	}
	d.printWelcome(time.Since(began))
	d.supervise(ctx)
	return nil
}

// prepare decides what needs no process: policy, samples, ports.
func (d *dev) prepare(ctx context.Context) (err error) {
	if d.options.policy == "" {
		if d.options.policy, err = d.dir.defaultPolicy(); err != nil {
			return err
		}
	}
	policies, err := loadPolicies(d.options.policy)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(policies) {
		d.products = append(d.products, devProduct{policies[name]})
	}
	if err := d.dir.writeSamples(); err != nil {
		return err
	}
	if d.dataAddr, err = choosePort(ctx, "port", d.options.port); err != nil {
		return err
	}
	if d.adminAddr, err = choosePort(ctx, "admin-port", d.options.adminPort); err != nil {
		return err
	}
	d.backendAddr, err = choosePort(ctx, "", 0)
	return err
}

// startParts starts what others need first.
func (d *dev) startParts(ctx context.Context) (err error) {
	if d.redis, err = startRedis(ctx, d.dir.path("redis")); err != nil {
		return err
	}
	if d.postgres, err = startPostgres(ctx, postgresd.Options{Dir: d.dir.path("postgres"), Fresh: d.options.fresh}); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program to start it again: %w", err)
	}
	d.backend = &child{
		name: "backend", program: self, args: []string{"studio", "--listen", d.backendAddr}, env: withoutSettings(d.app.environ),
		log: d.dir.path("backend.log"), ready: "http://" + d.backendAddr + "/studio/stats", errors: d.log,
	}
	if err := d.backend.startReady(ctx); err != nil {
		return err
	}
	d.gateway = &child{
		name: "gateway", program: self, args: []string{"serve"}, env: d.gatewayEnv(),
		log: d.dir.path("gateway.log"), ready: d.adminURL() + "/readyz", errors: d.log,
	}
	return d.gateway.startReady(ctx)
}

// gatewayEnv is the environment with the settings that make this run; other CREDITGATE_* variables pass through.
func (d *dev) gatewayEnv() []string {
	env := d.app.environ
	if !isSet(env, envName("shutdown_timeout")) {
		env = append(slices.Clip(env), envName("shutdown_timeout")+"=5s") // nobody waits at a Ctrl-C for a hung backend
	}
	for _, s := range [...]struct{ name, value string }{
		{"listen", d.dataAddr},
		{"admin_listen", d.adminAddr},
		{"admin_token", d.dir.token},
		{"redis_url", d.redis.URL()},
		{"postgres_url", d.postgres.writerURL()},
		{"policy", absolute(d.options.policy)},
		{"upstream", "http://" + d.backendAddr},
		{"journal_dir", d.dir.path("journal")},
	} {
		env = append(slices.Clip(env), envName(s.name)+"="+s.value)
	}
	return env
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (d *dev) dataURL() string  { return "http://" + d.dataAddr }
func (d *dev) adminURL() string { return "http://" + d.adminAddr }

// stop ends everything that was started, those first that need the others.
func (d *dev) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), devStop)
	defer cancel()
	var errs []error
	if d.gateway != nil {
		errs = append(errs, d.gateway.stop(ctx))
	}
	if d.backend != nil {
		errs = append(errs, d.backend.stop(ctx))
	}
	if d.postgres != nil {
		errs = append(errs, d.postgres.Close())
	}
	if d.redis != nil {
		errs = append(errs, d.redis.Stop())
	}
	return errors.Join(errs...)
}
