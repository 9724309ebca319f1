package meter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// errOtherEpoch says that Redis has the partition under another epoch than it was opened with.
var errOtherEpoch = errors.New("Redis has it under another epoch")

// LedgerReader hands ledger records to whoever persists them. It owns no cursor: that is kept where the records go.
type LedgerReader struct {
	engine *Engine
	spare  *sync.Pool // of *Records
}

// Ledger returns the reader of this engine's ledgers.
func (e *Engine) Ledger() *LedgerReader { return &LedgerReader{engine: e, spare: e.records} }

// Read returns up to limit records after a position, in order, and the epoch they were read under. When there are
// none it waits for the first, at most wait. It reads only an open partition, so that a Redis that was left behind
// by a failover is not flushed. Whoever releases the records spares the next read its memory.
func (l *LedgerReader) Read(
	ctx context.Context, partition uint16, after Position, limit int, wait time.Duration,
) (*Records, uint64, error) {
	p := l.engine.partitions[partition]
	openCtx, cancel := context.WithTimeout(ctx, wait+openRetryMax)
	defer cancel()
	for {
		if err := p.waitOpen(openCtx); err != nil {
			return nil, 0, err
		}
		epoch := p.epoch.Load()
		records, err := l.readUnder(ctx, p, epoch, after, limit, wait)
		if errors.Is(err, errOtherEpoch) && openCtx.Err() == nil {
			continue // once it was opened again
		}
		return records, epoch, err
	}
}

// readUnder reads records under one epoch, and waits for the first if there is none.
func (l *LedgerReader) readUnder(
	ctx context.Context, p *partition, epoch uint64, after Position, limit int, wait time.Duration,
) (*Records, error) {
	records, err := l.under(ctx, p, epoch, after, limit)
	if err != nil || len(records.List) > 0 || wait <= 0 {
		return records, err
	}
	records.Release() // nobody holds memory while there is nothing to read
	if err := l.await(ctx, p.number, after, wait); err != nil {
		return nil, unread(p, err)
	}
	return l.under(ctx, p, epoch, after, limit)
}

// under reads records and, before and after them, the epoch that Redis has them under. Another than the partition
// was opened with means that this Redis was left behind by a failover, or that another gateway has opened it: what
// it says is not for Postgres. Within one epoch there is only one history, so the incarnation need not be compared:
// a Redis that lost the end of it still tells no other. An epoch never comes back, so one that is the same before and
// after was the same between. It is not a transaction, which Redis refuses when it is full: reading is what makes room.
//
// The reply is taken as it is sent: go-redis' form of it, a map for each record, took half of what a charged request
// made the flusher allocate. So a Cluster that moved the partition is followed by the two others only, and the flusher
// reads again.
func (l *LedgerReader) under(
	ctx context.Context, p *partition, epoch uint64, after Position, limit int,
) (*Records, error) {
	keys := l.engine.layout.Keys(p.number)
	records, _ := l.spare.Get().(*Records) // the pool makes no other
	pipe := l.engine.client().Pipeline()
	before := pipe.Get(ctx, keys.Meta())
	_ = pipe.Process(ctx, redis.NewRawWriteToCmd(ctx, records.begin(), // a pipeline only queues
		"xrange", keys.Ledger(), "("+after.String(), "+", "count", limit))
	behind := pipe.Get(ctx, keys.Meta())
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, unread(p, err) // without the memory: who knows who still writes to it
	}
	for _, has := range [...]*redis.StringCmd{before, behind} {
		b, _ := has.Bytes()
		if m, err := UnpackMeta(b); err != nil || m.Epoch != epoch {
			records.Release()
			p.shut(epoch, CodeEpoch)
			return nil, unread(p, fmt.Errorf("%w: %d and not %d", errOtherEpoch, m.Epoch, epoch))
		}
	}
	if err := records.unpack(l.engine.layout.Number, p.number); err != nil {
		records.Release()
		if errors.Is(err, errRefused) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil, fmt.Errorf("meter: ledger of partition %d: %w", p.number, err)
	}
	return records, nil
}

func unread(p *partition, err error) error {
	return fmt.Errorf("meter: read ledger of partition %d: %w: %w", p.number, ErrUnavailable, err)
}

// await returns when there is a record after this position, or when it has waited long enough.
func (l *LedgerReader) await(ctx context.Context, partition uint16, after Position, wait time.Duration) error {
	err := l.engine.client().XRead(ctx, &redis.XReadArgs{
		Streams: []string{l.engine.layout.Keys(partition).Ledger(), after.String()}, Count: 1, Block: wait,
	}).Err()
	return ignoreNil(err)
}

// Flushed tells Redis how far the ledger is in Postgres, and lets it forget records before trimTo (zero: none).
func (l *LedgerReader) Flushed(ctx context.Context, partition uint16, at, trimTo Position) error {
	o := newOp(verbFlushed, partition, NewID(l.engine.now()), "").
		u64(at.Epoch).u64(at.Pseq).u64(trimTo.Epoch).u64(trimTo.Pseq)
	_, err := l.engine.run(ctx, o, time.Time{})
	return err
}

// Head is the pseq of the newest record and the epoch that the partition has now, both of one moment. An opening
// raises the epoch and not the pseq, so there need not be a record at just this position: compare the pseq.
func (l *LedgerReader) Head(ctx context.Context, partition uint16) (Position, error) {
	m, err := l.engine.meta(ctx, partition)
	return Position{Epoch: m.Epoch, Pseq: m.Pseq}, err
}

// Reopen says that Postgres has a newer epoch than Redis runs under: an opening was claimed and not finished.
func (l *LedgerReader) Reopen(partition uint16) {
	p := l.engine.partitions[partition]
	p.reopen.Store(true)
	p.shut(p.epoch.Load(), CodeEpoch)
}
