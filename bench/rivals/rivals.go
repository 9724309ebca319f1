package rivals

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/bench/cast"
)

// Names lists the targets that Main can run.
func Names() []string { return []string{"backend", "proxy", "naive", "pgrow", "nginx"} }

// heapFloor is what `creditgate serve` takes the live heap to be at least; every Go target has the same, so that none
// collects garbage more often than another. GOGC or GOMEMLIMIT in the environment decide for all of them.
const heapFloor = 64 << 20

// options are the command line of a target. Which of them a target needs stands in check.
type options struct {
	name     string
	listen   string
	backend  string
	redis    string
	postgres string
	accounts int
	grants   int
	credits  int64
	delay    time.Duration
	dir      string
}

// Main runs the target called name: it prints "ready ADDR" to stdout once it answers, and serves until ctx ends or
// the process gets SIGTERM or SIGINT. A target whose programs are missing fails with ErrNotHere.
func Main(ctx context.Context, name string, args []string, stdout io.Writer) error {
	o, err := parse(name, args)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		defer runtime.KeepAlive(make([]byte, heapFloor)) // never touched: it takes no room on the machine
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := o.run(ctx, stdout); err != nil {
		return fmt.Errorf("target %s: %w", name, err)
	}
	return nil
}

func parse(name string, args []string) (*options, error) {
	o := &options{name: name}
	f := flag.NewFlagSet("target "+name, flag.ContinueOnError)
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` to serve on; port 0 takes a free one")
	f.StringVar(&o.backend, "backend", "", "`address` of the backend")
	f.StringVar(&o.redis, "redis", "", "`URL` of Redis; the target's own keys begin with rival:")
	f.StringVar(&o.postgres, "postgres", "", "`URL` of Postgres; the target's schema is "+pgSchema)
	f.IntVar(&o.accounts, "accounts", 1, "how many accounts there are, and API keys")
	f.IntVar(&o.grants, "grants", 3, "live grants of each account")
	f.Int64Var(&o.credits, "credits", 1_000_000_000, "credits of each account, spread over its grants")
	f.DurationVar(&o.delay, "delay", 0, "how long the backend takes to answer")
	f.StringVar(&o.dir, "dir", "", "`directory` for what the target writes; made if it is not there")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	return o, o.check()
}

// pgSchema holds the tables of pgrow, and nothing else.
const pgSchema = "rival_pgrow"

// grantsMax bounds the grants of an account; creditgate is measured with up to 12.
const grantsMax = 64

func (o *options) check() error {
	var errs []error
	need := func(flag, value string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("target %s needs -%s", o.name, flag))
		}
	}
	if o.name != "backend" {
		need("backend", o.backend)
	}
	switch o.name {
	case "backend", "proxy":
	case "naive":
		need("redis", o.redis)
	case "pgrow":
		need("postgres", o.postgres)
	case "nginx":
		need("redis", o.redis)
		need("dir", o.dir)
	default:
		errs = append(errs, fmt.Errorf("target %q is unknown: it is one of %s", o.name, strings.Join(Names(), ", ")))
	}
	if o.accounts < 1 || o.accounts > cast.AccountsMax || o.grants < 1 || o.grants > grantsMax || o.credits < 0 {
		errs = append(errs, fmt.Errorf("-accounts %d -grants %d -credits %d: 1 to %d accounts, 1 to %d grants, no debts",
			o.accounts, o.grants, o.credits, cast.AccountsMax, grantsMax))
	}
	return errors.Join(errs...)
}

// run serves one target until ctx ends.
func (o *options) run(ctx context.Context, stdout io.Writer) error {
	if o.name == "nginx" {
		return runNginx(ctx, o, stdout)
	}
	h, end, err := o.build(ctx)
	if err != nil {
		return err
	}
	defer end()
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	fmt.Fprintln(stdout, "ready", l.Addr())
	return serveHTTP(ctx, l, h)
}

// build makes what answers the requests, with its accounts in place, and says how to end it.
func (o *options) build(ctx context.Context) (h fasthttp.RequestHandler, end func(), err error) {
	var m metering
	switch o.name {
	case "backend":
		return newBackend(o.delay).serve, func() {}, nil
	case "proxy":
		return newProxy(o.backend, o.accounts, nil).serve, func() {}, nil
	case "naive":
		m, err = newNaive(ctx, o)
	case "pgrow":
		m, err = newPgrow(ctx, o)
	case "nginx": // serves by itself, see run
	}
	if err != nil {
		return nil, nil, err
	}
	return newProxy(o.backend, o.accounts, m).serve, m.close, nil
}

// lot is a grant as an account begins with it. All accounts begin alike.
type lot struct {
	id      int // from 1, in drain order
	expires time.Time
	amount  int64 // milli-credits
}

// lots spreads the credits over the grants, in milli-credits, so that a request may need two of them; what does not
// divide is in the first.
func (o *options) lots(now time.Time) []lot {
	lots := make([]lot, o.grants)
	total, n := o.credits*price, int64(o.grants)
	for i := range lots {
		lots[i] = lot{id: i + 1, expires: now.AddDate(0, i+1, 0), amount: total / n}
	}
	lots[0].amount += total % n
	return lots
}
