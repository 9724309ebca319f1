package meter

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Inspector reads what Redis holds, in clear and without scripts: for people, and for comparing with Postgres. It
// writes nothing, and needs no open partition.
type Inspector struct {
	client redis.UniversalClient
	engine *Engine // its readers; never run
	layout Layout
}

// NewInspector connects lazily.
func NewInspector(redisURL string, layout Layout) (*Inspector, error) {
	client, err := NewRedis(redisURL)
	if err != nil {
		return nil, err
	}
	e := &Engine{layout: layout, clock: new(Clock)}
	e.redis.Store(&client)
	return &Inspector{client: client, engine: e, layout: layout}, nil
}

// Close closes the connections.
func (i *Inspector) Close() error { return i.client.Close() }

// Layout is the one that keys are named by.
func (i *Inspector) Layout() Layout { return i.layout }

// PartitionView is what Redis says about a partition. Head, First and Last are ledger positions; First and Last are
// zero when the stream is empty.
type PartitionView struct {
	Partition       uint16
	Exists          bool
	Epoch           uint64
	Pseq            uint64 // of the newest record
	FlushedPseq     uint64 // how far Postgres is, as Redis was told
	LastMs          int64  // of the newest write
	Base            uint64 // the record that Redis was rebuilt at, 0: never; the stream begins after it
	State           string // "open" or "loading"
	Torn            bool
	SameIncarnation bool // Redis has not restarted or failed over since the partition was opened
	Records         int64
	First, Last     string // ids of the stream's ends
	Open            int64  // reservations
	Slots           int64  // outcome and key slots in use
}

// Partition reads one partition.
func (i *Inspector) Partition(ctx context.Context, partition uint16) (PartitionView, error) {
	v := PartitionView{Partition: partition}
	keys := i.layout.Keys(partition)
	m, err := i.engine.readMeta(ctx, i.client, partition)
	if err != nil {
		return v, i.failed("partition", err)
	}
	v.Exists, v.Epoch, v.Pseq, v.FlushedPseq, v.Torn = m.exists, m.Epoch, m.Pseq, m.Flushed.Pseq, m.Torn
	v.LastMs, v.Base = m.LastMs, m.Base
	v.SameIncarnation = m.exists && m.Incarnation == m.replid
	if m.exists {
		v.State = "open"
	}
	if m.Loading {
		v.State = "loading"
	}
	pipe := i.client.Pipeline()
	records, open := pipe.XLen(ctx, keys.Ledger()), pipe.HLen(ctx, keys.Open())
	slots := pipe.HLen(ctx, keys.Slots())
	first := pipe.XRangeN(ctx, keys.Ledger(), "-", "+", 1)
	last := pipe.XRevRangeN(ctx, keys.Ledger(), "+", "-", 1)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return v, i.failed("partition", err)
	}
	v.Records, v.Open, v.Slots = records.Val(), open.Val(), slots.Val()
	if len(first.Val()) > 0 && len(last.Val()) > 0 {
		v.First, v.Last = first.Val()[0].ID, last.Val()[0].ID
	}
	return v, nil
}

// Accounts reads accounts by name; one that Redis does not have is missing from the answer.
func (i *Inspector) Accounts(ctx context.Context, names ...string) (map[string]Account, error) {
	pipe := i.client.Pipeline()
	got := make([]*redis.StringCmd, len(names))
	for n, name := range names {
		got[n] = pipe.Get(ctx, i.layout.Keys(i.layout.PartitionOf(name)).Account(name))
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, i.failed("accounts", err)
	}
	out := make(map[string]Account, len(names))
	for n, name := range names {
		b, err := got[n].Bytes()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			return nil, i.failed("account "+name, err)
		}
		if out[name], err = UnpackAccount(b); err != nil {
			return nil, fmt.Errorf("meter: account %s: %w", name, err)
		}
	}
	return out, nil
}

// AccountNames calls fn with the names of the accounts that Redis has, of every partition, some at a time. One may
// come twice.
func (i *Inspector) AccountNames(ctx context.Context, fn func(names []string) error) error {
	scan := func(ctx context.Context, c *redis.Client) error {
		prefix, cursor := fmt.Sprintf("{cg%d:", i.layout.Number), uint64(0)
		for {
			keys, next, err := c.Scan(ctx, cursor, prefix+"*}:a:*", 1000).Result()
			if err != nil {
				return i.failed("accounts", err)
			}
			names := make([]string, 0, len(keys))
			for _, k := range keys {
				if _, name, ok := strings.Cut(k, "}:a:"); ok {
					names = append(names, name)
				}
			}
			if err := fn(names); err != nil {
				return err
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	switch c := i.client.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, scan)
	case *redis.Client:
		return scan(ctx, c)
	}
	return fmt.Errorf("meter: %T cannot be scanned for accounts", i.client)
}

// OpenReservations calls fn with every open reservation of a partition. One may come twice.
func (i *Inspector) OpenReservations(ctx context.Context, partition uint16, fn func(Reservation) error) error {
	return i.engine.eachOpen(ctx, partition, fn)
}

// Reservation reads a reservation, open or settled; ok is false when Redis does not know it, or not any more.
func (i *Inspector) Reservation(ctx context.Context, id ReservationID) (r Reservation, ok bool, err error) {
	keys := i.layout.Keys(id.Partition)
	for _, key := range [...]string{keys.Open(), keys.Done(id.ID.CreatedMs())} {
		b, err := i.client.HGet(ctx, key, string(id.ID[:])).Bytes()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			return r, false, i.failed("reservation", err)
		}
		if r, err = UnpackReservation(b); err != nil {
			return r, false, fmt.Errorf("meter: reservation %s: %w", id, err)
		}
		m, err := i.engine.readMeta(ctx, i.client, id.Partition)
		if err != nil {
			return r, false, i.failed("reservation", err)
		}
		r.ID = id
		r.DeadlineMs += m.DownMs // packed leases do not count the time that Redis was away
		return r, true, nil
	}
	return r, false, nil
}

// Records returns up to limit ledger records of a partition after a position.
func (i *Inspector) Records(ctx context.Context, partition uint16, after Position, limit int) ([]Record, error) {
	key := i.layout.Keys(partition).Ledger()
	messages, err := i.client.XRangeN(ctx, key, "("+after.String(), "+", int64(limit)).Result()
	if err != nil {
		return nil, i.failed("ledger", err)
	}
	records := make([]Record, len(messages))
	for n, m := range messages {
		body, _ := m.Values["e"].(string)
		if records[n], err = UnpackRecord([]byte(body)); err != nil {
			return nil, fmt.Errorf("meter: ledger record %s of partition %d: %w", m.ID, partition, err)
		}
		records[n].Layout, records[n].Partition = i.layout.Number, partition
		if records[n].Position, err = parsePosition(m.ID); err != nil {
			return nil, fmt.Errorf("meter: ledger record of partition %d: %w", partition, err)
		}
	}
	return records, nil
}

// Closed is the *ClosedError that keeps a gateway from opening a partition, found without changing anything; nil if there
// is none. Without a cursor, Redis is not compared with Postgres. Clocks are not compared: it does not know a test clock's.
func (i *Inspector) Closed(ctx context.Context, partition uint16, at *Cursor) error {
	if err := CheckRedis(ctx, i.client); err != nil {
		return &ClosedError{What: "Redis cannot be used", Advice: adviceFor(err), Err: err}
	}
	want, have := i.layout.text(), i.client.Get(ctx, layoutKey).Val()
	if have != "" && have != want {
		return i.engine.otherLayout(want, have)
	}
	m, err := i.engine.readMeta(ctx, i.client, partition)
	if err != nil {
		return err
	}
	keys := i.layout.Keys(partition)
	if !m.exists {
		left, err := i.client.Exists(ctx, keys.Ledger(), keys.Open(), keys.Slots()).Result()
		if err == nil && left > 0 {
			err = i.engine.metaLost(partition)
		}
		return err
	}
	switch {
	case m.Torn:
		return i.engine.torn(partition)
	case m.Loading || at == nil:
		return nil
	}
	return i.engine.continues(ctx, partition, m.Meta, *at)
}

// Continues says whether Redis' ledger goes on from Postgres' at a cursor that was read before: ErrFenced if it does
// not, as a gateway finds when it opens the partition.
func (i *Inspector) Continues(ctx context.Context, partition uint16, at Cursor) error {
	m, err := i.engine.readMeta(ctx, i.client, partition)
	if err == nil {
		err = i.engine.continues(ctx, partition, m.Meta, at)
	}
	if err == nil || errors.Is(err, ErrFenced) {
		return err
	}
	return i.failed("ledger", err)
}

// NowMs is the clock of an account's partition: Redis', unless a test clock moved it, as its last write then shows.
func (i *Inspector) NowMs(ctx context.Context, partition uint16) (int64, error) {
	t, err := i.client.Time(ctx).Result()
	if err != nil {
		return 0, i.failed("clock", err)
	}
	m, err := i.engine.readMeta(ctx, i.client, partition)
	if err != nil {
		return 0, i.failed("clock", err)
	}
	return max(t.UnixMilli(), m.LastMs), nil
}

func (i *Inspector) failed(what string, err error) error {
	return fmt.Errorf("meter: read %s: %w: %w", what, ErrUnavailable, err)
}
