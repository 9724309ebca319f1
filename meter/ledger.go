package meter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// errOtherEpoch says that Redis has the partition under another epoch than it was opened with.
var errOtherEpoch = errors.New("Redis has it under another epoch")

// LedgerReader hands ledger records to whoever persists them. It owns no cursor: that is kept where the records go.
type LedgerReader struct{ engine *Engine }

// Ledger returns the reader of this engine's ledgers.
func (e *Engine) Ledger() *LedgerReader { return &LedgerReader{engine: e} }

// Read returns up to limit records after a position, in order, and the epoch they were read under. When there are
// none it waits for the first, at most wait. It reads only an open partition, so that a Redis that was left behind
// by a failover is not flushed.
func (l *LedgerReader) Read(
	ctx context.Context, partition uint16, after Position, limit int, wait time.Duration,
) ([]Record, uint64, error) {
	p := l.engine.partitions[partition]
	openCtx, cancel := context.WithTimeout(ctx, wait+openRetryMax)
	defer cancel()
	for {
		if err := p.waitOpen(openCtx); err != nil {
			return nil, 0, err
		}
		epoch := p.epoch.Load()
		messages, err := l.readUnder(ctx, p, epoch, after, limit, wait)
		if errors.Is(err, errOtherEpoch) && openCtx.Err() == nil {
			continue // once it was opened again
		}
		if err != nil {
			return nil, 0, fmt.Errorf("meter: read ledger of partition %d: %w: %w", partition, ErrUnavailable, err)
		}
		records, err := l.engine.records(partition, messages)
		return records, epoch, err
	}
}

// readUnder reads records under one epoch, and waits for the first if there is none.
func (l *LedgerReader) readUnder(
	ctx context.Context, p *partition, epoch uint64, after Position, limit int, wait time.Duration,
) ([]redis.XMessage, error) {
	messages, err := l.under(ctx, p, epoch, after, limit)
	if err != nil || len(messages) > 0 || wait <= 0 {
		return messages, err
	}
	if err := l.await(ctx, p.number, after, wait); err != nil {
		return nil, err
	}
	return l.under(ctx, p, epoch, after, limit)
}

// under reads records and, in the same transaction, the epoch that Redis has them under. Another than the partition
// was opened with means that this Redis was left behind by a failover, or that another gateway has opened it: what
// it says is not for Postgres. Within one epoch there is only one history, so the incarnation need not be compared:
// a Redis that lost the end of it still tells no other.
func (l *LedgerReader) under(
	ctx context.Context, p *partition, epoch uint64, after Position, limit int,
) ([]redis.XMessage, error) {
	keys := l.engine.layout.Keys(p.number)
	tx := l.engine.client().TxPipeline()
	has := tx.Get(ctx, keys.Meta())
	messages := tx.XRangeN(ctx, keys.Ledger(), "("+after.String(), "+", int64(limit))
	if _, err := tx.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	b, _ := has.Bytes()
	if m, err := UnpackMeta(b); err != nil || m.Epoch != epoch {
		p.shut(epoch, CodeEpoch)
		return nil, fmt.Errorf("%w: %d and not %d", errOtherEpoch, m.Epoch, epoch)
	}
	return messages.Val(), nil
}

// await returns when there is a record after this position, or when it has waited long enough.
func (l *LedgerReader) await(ctx context.Context, partition uint16, after Position, wait time.Duration) error {
	err := l.engine.client().XRead(ctx, &redis.XReadArgs{
		Streams: []string{l.engine.layout.Keys(partition).Ledger(), after.String()}, Count: 1, Block: wait,
	}).Err()
	return ignoreNil(err)
}

func (e *Engine) records(partition uint16, messages []redis.XMessage) ([]Record, error) {
	records := make([]Record, len(messages))
	for i, m := range messages {
		var err error
		if records[i], err = e.record(partition, m); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func (e *Engine) record(partition uint16, m redis.XMessage) (Record, error) {
	body, _ := m.Values["e"].(string)
	rec, err := unpackRecord([]byte(body), body)
	if err != nil {
		return Record{}, fmt.Errorf("meter: ledger record %s of partition %d: %w", m.ID, partition, err)
	}
	rec.Layout, rec.Partition = e.layout.Number, partition
	if rec.Position, err = parsePosition(m.ID); err != nil {
		return Record{}, fmt.Errorf("meter: ledger record of partition %d: %w", partition, err)
	}
	return rec, nil
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
