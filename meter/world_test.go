package meter_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"creditgate/meter"
	"creditgate/meter/metertest"
	"creditgate/meter/redisd"
)

// world is two gateways on one Redis beside the model of each partition. Nothing in it happens by itself: no engine
// runs its sweeper, and the partitions' clock stands still far ahead of the wall's, since `now` never falls behind
// last_ms; the engines are told the same time, or they would be refused. So every reply and every byte of state can be predicted.
type world struct {
	t       require.TestingT
	ctx     context.Context //nolint:containedctx // of the test, which the world does not outlive
	layout  meter.Layout
	book    *metertest.Book
	client  *redis.Client // without the engines' short timeouts: a dump may be large and the machine busy
	engines [2]*meter.Engine
	losses  [2]*loss
	models  []*metertest.Model
	ledgers [][]meter.Record // what was seen of each ledger, trimmed records included
	touched []bool           // partitions to compare after this step
	serial  uint64           // of ids
	verbs   int
	nowMs   atomic.Int64 // of the partitions; 0: the wall's
}

// newWorld empties the server. A mutation of the scripts is for tests of the tests.
func newWorld(
	ctx context.Context, t require.TestingT, server *redisd.Server, partitions uint16, mutations ...func(*meter.Engine),
) *world {
	w := &world{t: t, ctx: ctx, layout: meter.Layout{Number: 1, Partitions: partitions}}
	w.book = metertest.NewBook(w.layout)
	for i := range w.engines {
		e, err := meter.New(meter.Options{
			RedisURL: server.URL(), Layout: w.layout, Book: w.book, Rebuild: w.book, Log: zerolog.Nop(),
			Metrics: prometheus.NewRegistry(), Now: w.now,
		})
		require.NoError(t, err)
		w.engines[i], w.losses[i] = e, &loss{}
		e.Redis().AddHook(w.losses[i])
		for _, mutate := range mutations {
			mutate(e)
		}
	}
	w.client = redis.NewClient(&redis.Options{Addr: server.Addr(), ReadTimeout: time.Minute})
	require.NoError(t, w.client.FlushAll(ctx).Err())
	nowMs := time.Now().Add(time.Hour).UnixMilli()
	for p := range partitions {
		w.models = append(w.models, metertest.NewModel(w.layout, p, nowMs))
	}
	w.ledgers, w.touched = make([][]meter.Record, partitions), make([]bool, partitions)
	w.open()
	w.setClock()
	return w
}

func (w *world) close() {
	for _, e := range w.engines {
		_ = e.Redis().Close()
	}
	_ = w.client.Close()
}

func (w *world) open() {
	for _, e := range w.engines {
		require.NoError(w.t, e.OpenNow(w.ctx))
	}
}

func (w *world) now() time.Time {
	if ms := w.nowMs.Load(); ms != 0 {
		return time.UnixMilli(ms)
	}
	return time.Now()
}

// setClock moves every partition's clock to its model's, which all show the same time.
func (w *world) setClock() {
	w.touch()
	w.nowMs.Store(w.models[0].NowMs)
	for _, m := range w.models {
		require.NoError(w.t, metertest.EditMeta(w.ctx, w.client, w.layout.Keys(m.Partition), func(meta *meter.Meta) {
			meta.LastMs = m.NowMs
		}))
	}
}

// loss is a connection that loses one reply to a flight: the flight was executed, and its sender is told that the line
// broke. A flight of one call is no pipeline.
type loss struct{ armed atomic.Bool }

func (l *loss) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *loss) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() != "fcall" || !l.armed.CompareAndSwap(true, false) {
			return err
		}
		cmd.SetErr(io.ErrUnexpectedEOF)
		return io.ErrUnexpectedEOF
	}
}

func (l *loss) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if cmds[0].Name() != "fcall" || !l.armed.CompareAndSwap(true, false) {
			return err
		}
		for _, c := range cmds {
			c.SetErr(io.ErrUnexpectedEOF)
		}
		return io.ErrUnexpectedEOF
	}
}

// do sends verbs in one flight through one gateway, and asks the models the same. With lost the reply is lost and
// the gateway sends the flight again by itself.
func (w *world) do(gateway int, lost bool, verbs ...verb) []meter.Decision {
	w.verbs += len(verbs)
	var ops []*meter.Op
	for _, v := range verbs {
		ops = append(ops, v.op())
		w.touched[v.partition] = true
	}
	want := w.ask(verbs)
	if lost {
		w.losses[gateway].armed.Store(true)
		want = w.ask(verbs) // the second time is the one that is answered
	}
	got, err := w.engines[gateway].Fly(ops...)
	require.NoError(w.t, err)
	for i := range verbs {
		requireSameDecision(w.t, verbs[i], want[i], got[i])
	}
	return got
}

// ask runs the verbs on the models in the order of the scripts: what settles shares one record and comes first.
func (w *world) ask(verbs []verb) []meter.Decision {
	out := make([]meter.Decision, len(verbs))
	for _, m := range w.models {
		m.Batch(func() {
			for i, v := range verbs {
				if v.partition == m.Partition && !v.reserves() {
					out[i] = v.model(m)
				}
			}
		})
		for i, v := range verbs {
			if v.partition == m.Partition && v.reserves() {
				out[i] = v.model(m)
			}
		}
	}
	return out
}

func (v verb) reserves() bool { return strings.HasPrefix(v.format, "reserve") }

func requireSameDecision(t require.TestingT, v verb, want, got meter.Decision) {
	if want.Code == meter.CodeError && got.Code == meter.CodeError || metertest.EqualDecisions(want, got) {
		return
	}
	require.Equalf(t, want, got, v.format, v.args...)
	require.Fail(t, "EqualDecisions sees a difference that Equal does not")
}

// touch lets every partition be compared, after a step that is no verb.
func (w *world) touch() {
	for p := range w.touched {
		w.touched[p] = true
	}
}

// compare reads every partition that was touched, checks its invariants and holds it against its model.
func (w *world) compare() {
	for p, m := range w.models {
		if !w.touched[p] {
			continue
		}
		w.touched[p] = false
		var last meter.Position
		if n := len(w.ledgers[p]); n > 0 {
			last = w.ledgers[p][n-1].Position
		}
		got, err := metertest.ReadAfter(w.ctx, w.client, w.layout, m.Partition, last)
		require.NoError(w.t, err)
		w.ledgers[p] = append(w.ledgers[p], got.Ledger...)
		got.Ledger = w.ledgers[p]
		if err := metertest.Check(got); err != nil {
			require.NoError(w.t, err, "invariants of partition %d:\n%s", p, got.Text(exact))
		}
		if !m.Equal(got) {
			got.NowMs = m.NowMs
			require.Equal(w.t, m.Text(exact), got.Text(exact), "partition %d", p)
			require.Equal(w.t, m.State, got, "partition %d", p)
			require.Fail(w.t, "State.Equal sees a difference that Text does not show")
		}
	}
}

var exact = metertest.Format{Round: time.Millisecond}

// flush folds up to atMost records of each partition into the book, and tells Redis unless that message is lost.
func (w *world) flush(atMost int, tell, trim bool) {
	w.touch()
	for p, m := range w.models {
		at, err := w.book.Cursor(w.ctx, m.Partition)
		require.NoError(w.t, err)
		records, _, err := w.engines[0].Ledger().Read(w.ctx, m.Partition, at.Position, atMost, 0)
		require.NoError(w.t, err)
		require.NoError(w.t, w.book.Fold(records.List))
		if !tell {
			continue
		}
		at, err = w.book.Cursor(w.ctx, uint16(p))
		require.NoError(w.t, err)
		trimTo := meter.Position{}
		if trim {
			trimTo = at.Position
		}
		require.NoError(w.t, w.engines[1].Ledger().Flushed(w.ctx, m.Partition, at.Position, trimTo))
		m.Flushed(at.Pseq)
	}
}

// reopen is a restart of Redis without loss: both gateways are fenced until one of them opened a new epoch.
func (w *world) reopen() {
	w.touch()
	for _, m := range w.models {
		require.NoError(w.t, metertest.EditMeta(w.ctx, w.client, w.layout.Keys(m.Partition), func(m *meter.Meta) {
			m.Incarnation = "0"
		}))
		o := meter.ReadOp(m.Partition, meter.ID{1}, "nobody")
		_, err := w.engines[0].Fly(o)
		require.NoError(w.t, err)
		require.Equal(w.t, meter.CodeFenced, o.Code())
	}
	require.NoError(w.t, w.engines[1].OpenNow(w.ctx))
	for _, m := range w.models {
		at, err := w.book.Cursor(w.ctx, m.Partition)
		require.NoError(w.t, err)
		m.Epoch++
		m.Flushed(at.Pseq)
		o := meter.ReadOp(m.Partition, meter.ID{1}, "nobody")
		_, err = w.engines[0].Fly(o)
		require.NoError(w.t, err)
		require.Equal(w.t, meter.CodeEpoch, o.Code())
	}
	require.NoError(w.t, w.engines[0].OpenNow(w.ctx))
}

// lose deletes an account's key and lets a gateway load it again from the book.
func (w *world) lose(account string) {
	w.flush(1_000, true, false)
	p := w.layout.PartitionOf(account)
	require.NoError(w.t, w.client.Del(w.ctx, w.layout.Keys(p).Account(account)).Err())
	_, err := w.engines[0].Balance(w.ctx, account)
	require.NoError(w.t, err)
	w.models[p].Reload(account)
}
