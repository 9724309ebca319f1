package meter_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// What is counted in Redis, for each request: a reserve and a commit.
const (
	commandsUnit     = "redis commands"
	inUnit           = "bytes to redis"
	outUnit          = "bytes from redis"
	instructionsUnit = "redis instructions"
)

// costsFile is the recorded table of what metering costs Redis.
const costsFile = "testdata/costs.json"

// costScene is one way in which requests come.
type costScene struct {
	flight     int // operations in a flight: as many reserves, then as many commits
	accounts   int
	partitions uint16
	grants     int
	mixed      bool // a flight commits what the one before reserved, and reserves as much anew
}

// costScenes are the sizes of flights that 1, 64 and 256 clients make; and what must not matter, one at a time:
// accounts, partitions, grants.
func costScenes() []costScene {
	return []costScene{
		{flight: 1, accounts: 1, partitions: 1, grants: 3},
		{flight: 64, accounts: 1, partitions: 1, grants: 3},
		{flight: 64, accounts: 64, partitions: 1, grants: 3},
		{flight: 64, accounts: 64, partitions: 4, grants: 3},
		{flight: 64, accounts: 64, partitions: 4, grants: 3, mixed: true},
		{flight: 64, accounts: 64, partitions: 4, grants: 1},
		{flight: 64, accounts: 64, partitions: 4, grants: 12},
		{flight: 256, accounts: 1, partitions: 1, grants: 3},
		{flight: 256, accounts: 64, partitions: 1, grants: 3},
		{flight: 256, accounts: 64, partitions: 4, grants: 3},
		{flight: 256, accounts: 256, partitions: 64, grants: 3},
	}
}

func (s costScene) String() string {
	shape := "flights of"
	if s.mixed {
		shape = "mixed flights of"
	}
	return fmt.Sprintf("%s %d, accounts %d, partitions %d, grants %d", shape, s.flight, s.accounts, s.partitions, s.grants)
}

// Requests counted for a scene. Flights of one are repeated, so that what Redis does every so many commands is shared
// out; the first flights are not counted, since they make the keys.
const (
	costRequests = 128
	costWarmups  = 1
)

// counter plays scenes on one Redis. Its clock stands still and its ids come in order, so that every argument and
// every reply has the same length whenever it runs.
type counter struct {
	t       *testing.T
	server  *redisd.Server
	info    *redis.Client
	patient *redis.Client
	probe   *callgrind // nil: instructions are not counted
	now     time.Time
	serial  uint64
	mutate  func(*meter.Engine) // nil, or a bug planted in the scripts
}

func newCounter(t *testing.T, server *redisd.Server, probe *callgrind) *counter {
	t.Helper()
	// An hour ahead of the wall's clock, as in world: it stands still there. In the middle of a slot of outcomes.
	c := &counter{t: t, server: server, probe: probe, now: time.Now().Add(time.Hour).Truncate(time.Hour).Add(time.Minute)}
	options := func() *redis.Options {
		return &redis.Options{Addr: server.Addr(), Protocol: 2, MaxRetries: -1, DisableIdentity: true, ReadTimeout: time.Minute}
	}
	c.info, c.patient = redis.NewClient(options()), redis.NewClient(options())
	t.Cleanup(func() { _, _ = c.info.Close(), c.patient.Close() })
	return c
}

// id is unlike any other of this counter, and the same in the next run.
func (c *counter) id() meter.ID {
	id := meter.NewID(c.now)
	c.serial++
	binary.BigEndian.PutUint16(id[6:], 0x7000)
	binary.BigEndian.PutUint64(id[8:], c.serial*0x9E3779B97F4A7C15)
	return id
}

// engine opens an engine on an emptied Redis, with an account for each number below accounts.
func (c *counter) engine(s costScene) (*meter.Engine, meter.Layout) {
	layout := meter.Layout{Number: 1, Partitions: s.partitions}
	book := metertest.NewBook(layout)
	var still atomic.Bool // the clock; partitions are opened at the wall's time
	now := func() time.Time {
		if still.Load() {
			return c.now
		}
		return time.Now()
	}
	e, err := meter.New(meter.Options{
		RedisURL: c.server.URL(), Layout: layout, Book: book, Rebuild: book, Log: zerolog.Nop(),
		Metrics: prometheus.NewRegistry(), Now: now,
	})
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = e.Redis().Close() })
	e.Redis().AddHook(unhurried{c.patient})
	if c.mutate != nil {
		c.mutate(e)
	}
	require.NoError(c.t, c.info.FlushAll(c.t.Context()).Err())
	require.NoError(c.t, c.info.FunctionFlush(c.t.Context()).Err()) // and with it Lua, whose garbage would be the last scene's
	require.NoError(c.t, e.OpenNow(c.t.Context()))
	for p := range s.partitions {
		require.NoError(c.t, metertest.EditMeta(c.t.Context(), c.info, layout.Keys(p), func(m *meter.Meta) {
			m.LastMs = c.now.UnixMilli()
		}))
	}
	still.Store(true)
	c.fill(e, book, layout, s)
	return e, layout
}

// fill makes the scene's accounts, all of them before the first entry: none is loaded while the book is behind.
func (c *counter) fill(e *meter.Engine, book *metertest.Book, layout meter.Layout, s costScene) {
	var grants []*meter.Op
	for i := range s.accounts {
		name := accountName(i)
		book.AddAccount(name)
		_, err := e.RunOp(c.t.Context(), meter.ReadOp(layout.PartitionOf(name), c.id(), name))
		require.NoError(c.t, err)
		for rank := range s.grants {
			grants = append(grants, meter.GrantOp(layout.PartitionOf(name), meter.GrantChange{Account: name, Grant: meter.Grant{
				ID: c.id(), Bucket: "monthly", Rank: uint8(rank), Available: 1_000_000 * meter.Credit,
				ExpiresMs: meter.Never, CreatedMs: c.now.UnixMilli(),
			}}))
		}
	}
	for chunk := range slices.Chunk(grants, 256) {
		c.fly(e, chunk...)
	}
	for p := range s.partitions { // so that accounts need not remember the grants, as in every account of some age
		head, err := e.Ledger().Head(c.t.Context(), p)
		require.NoError(c.t, err)
		if head.Pseq > 0 {
			c.fly(e, meter.FlushedOp(p, c.id(), head, meter.Position{}))
		}
	}
}

func accountName(i int) string { return fmt.Sprintf("account-%03d", i) }

// fly sends operations in one flight; each must be done.
func (c *counter) fly(e *meter.Engine, ops ...*meter.Op) {
	decisions, err := e.Fly(ops...)
	require.NoError(c.t, err)
	for _, d := range decisions {
		require.Equal(c.t, meter.CodeOK, d.Code)
	}
}

// requests makes the operations of a flight's worth of requests.
func (c *counter) requests(s costScene, layout meter.Layout) (reserves, commits []*meter.Op) {
	for i := range s.flight {
		account := accountName(i % s.accounts)
		id := layout.NewReservationID(c.id(), account)
		// One key makes many requests, as it is.
		note := meter.Note{Operation: "generate", PolicyVersion: "0123456789ab", KeyID: "key-of-" + account}
		reserves = append(reserves, meter.ReserveOp(meter.Reserve{
			ID: id, Account: account, Amount: meter.Credit, Lease: time.Minute, Note: note, Brief: true,
		}))
		commits = append(commits, meter.CommitOp(meter.Settle{
			ID: id, Account: account, Amount: meter.Credit, Units: 1, Note: note, Brief: true,
		}, true))
	}
	return reserves, commits
}

// count plays a scene and returns what each of its requests cost.
func (c *counter) count(s costScene) []metertest.Cost {
	e, layout := c.engine(s)
	var held []*meter.Op // commits of what the last mixed flight reserved
	flight := func() {
		reserves, commits := c.requests(s, layout)
		if s.mixed {
			c.fly(e, append(reserves, held...)...)
			held = commits
			return
		}
		c.fly(e, reserves...)
		c.fly(e, commits...)
	}
	for range costWarmups {
		flight()
	}
	flights := max(1, costRequests/s.flight)
	// When Lua collects its garbage is a matter of luck: here it does so once, at the end, and all of it.
	c.eval(`collectgarbage('collect') collectgarbage('stop')`)
	before := readTraffic(c.t, c.info)
	c.probe.begin(c.t)
	for range flights {
		flight()
	}
	after := readTraffic(c.t, c.info)
	c.eval(`collectgarbage('collect') collectgarbage('restart')`)
	instructions := c.probe.end(c.t)

	requests := float64(flights * s.flight)
	cost := func(unit string, total, share, plus float64) metertest.Cost {
		return metertest.Cost{Cell: s.String(), Unit: unit, PerRequest: total / requests, Share: share, Plus: plus}
	}
	costs := []metertest.Cost{
		cost(commandsUnit, after.commands-before.commands-1, 0, 0.001), // the table's last decimal
		cost(inUnit, after.in-before.in-before.infoIn, 0, 0.05),
		cost(outUnit, after.out-before.out-before.infoOut, 0, 0.05),
	}
	if c.probe != nil {
		costs = append(costs, cost(instructionsUnit, instructions, instructionsShare, 0))
	}
	return costs
}

func (c *counter) eval(script string) {
	require.NoError(c.t, c.info.Eval(c.t.Context(), script+" return 1", nil).Err())
}

// traffic is what a server has done in its life, and what asking for it adds, which the next answer includes.
type traffic struct{ commands, in, out, infoIn, infoOut float64 }

func readTraffic(t *testing.T, client *redis.Client) traffic {
	t.Helper()
	info, err := client.Info(t.Context(), "stats", "commandstats").Result()
	require.NoError(t, err)
	number := func(s string) float64 {
		n, err := strconv.ParseFloat(s, 64)
		require.NoError(t, err)
		return n
	}
	at := traffic{
		infoIn:  float64(len("*3\r\n$4\r\ninfo\r\n$5\r\nstats\r\n$12\r\ncommandstats\r\n")),
		infoOut: float64(len(fmt.Sprintf("$%d\r\n%s\r\n", len(info), info))),
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case strings.HasPrefix(name, "cmdstat_"):
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			at.commands += number(calls)
		case name == "total_net_input_bytes":
			at.in = number(value)
		case name == "total_net_output_bytes":
			at.out = number(value)
		}
	}
	return at
}

// unhurried carries an engine's commands over a client that waits, since a server whose instructions are counted is
// some fifty times as slow as the engine's timeouts expect.
type unhurried struct{ client *redis.Client }

func (p unhurried) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p unhurried) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return p.client.Process(context.WithoutCancel(ctx), cmd)
	}
}

func (p unhurried) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		pipe := p.client.Pipeline()
		for _, cmd := range cmds {
			_ = pipe.Process(context.WithoutCancel(ctx), cmd)
		}
		_, err := pipe.Exec(context.WithoutCancel(ctx))
		return err
	}
}

// TestCosts counts what a request costs Redis and fails when any of it grew. -update records the figures: read the
// difference before committing it.
func TestCosts(t *testing.T) {
	t.Parallel()
	const recounts = 3
	recorded, err := metertest.ReadCosts(costsFile)
	require.NoError(t, err)
	server, probe := countedRedis(t)
	c := newCounter(t, server, probe)
	var counted []metertest.Cost
	for _, s := range costScenes() {
		costs := c.count(s)
		// The same code was seen 3.6 % apart by chance: what has grown has grown in every count.
		for range recounts {
			_, grew, _ := recorded.Judge(costs) // the other scenes too, which are not there yet
			if !slices.ContainsFunc(grew, func(g string) bool { return strings.HasPrefix(g, s.String()+", ") }) {
				break
			}
			costs = c.count(s)
		}
		counted = append(counted, costs...)
	}
	if *update {
		if probe != nil {
			recorded.Servers = map[string]string{instructionsUnit: redisBuild(t, c.info)}
		}
		require.NoError(t, recorded.Record(costsFile, counted))
		recorded, err = metertest.ReadCosts(costsFile)
		require.NoError(t, err)
	}
	if was, here := recorded.Servers[instructionsUnit], redisBuild(t, c.info); probe != nil && was != here {
		sayf("instructions: recorded on %s, and this is %s: not compared", was, here)
		counted = without(counted, instructionsUnit)
	}
	table, grew, shrank := recorded.Judge(counted)
	sayf("%s", table)
	for _, s := range shrank {
		sayf("less than recorded: %s", s)
	}
	require.Empty(t, grew, "a request costs Redis more than before. If that is the price of something worth it, record it:\n"+
		"go test ./meter -run '^TestCosts$' -update")
}

// A guard that sees nothing guards nothing: with one more command in the scripts, or one more argument, it must say so.
func TestCostsNoticeOneMoreCommand(t *testing.T) {
	t.Parallel()
	recorded, err := metertest.ReadCosts(costsFile)
	require.NoError(t, err)
	c := newCounter(t, redisd.Test(t, quietArgs()...), nil)
	c.mutate = func(e *meter.Engine) { e.Mutate("  begin()\n  KEYS", "  begin()\n  call('TIME')\n  KEYS") }
	s := costScenes()[0]
	table, grew, _ := recorded.Judge(c.count(s))
	require.Contains(t, grew[0], s.String()+", "+commandsUnit, table)
}

// sayf writes to people: figures are worth reading also when all is well.
func sayf(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

func without(costs []metertest.Cost, unit string) []metertest.Cost {
	var left []metertest.Cost
	for _, c := range costs {
		if c.Unit != unit {
			left = append(left, c)
		}
	}
	return left
}

// redisBuild names the program whose instructions are counted: another compiler, another count.
func redisBuild(t *testing.T, client *redis.Client) string {
	t.Helper()
	info, err := client.Info(t.Context(), "server").Result()
	require.NoError(t, err)
	fields := map[string]string{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = value
	}
	return fmt.Sprintf("redis %s, build %s, %s", fields["redis_version"], fields["redis_build_id"], runtime.GOARCH)
}

// quietArgs let a server do nothing by itself that depends on when: no rehashing for a millisecond at a time, no fsync.
func quietArgs() []string {
	return []string{"--hz", "1", "--dynamic-hz", "no", "--activerehashing", "no", "--appendfsync", "no"}
}

// countedRedis starts a server, under callgrind where that can be.
func countedRedis(t *testing.T) (*redisd.Server, *callgrind) {
	t.Helper()
	dir := t.TempDir()
	probe := findCallgrind(t, dir)
	o := redisd.Options{Dir: filepath.Join(dir, "redis"), Args: quietArgs()}
	if probe != nil {
		o.Under = probe.command()
	}
	server, err := redisd.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Kill()) })
	return server, probe.attach(t, server.PID())
}
