package meter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

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
	e := l.engine
	p := e.partitions[partition]
	openCtx, cancel := context.WithTimeout(ctx, wait+openRetryMax)
	defer cancel()
	if err := p.waitOpen(openCtx); err != nil {
		return nil, 0, err
	}
	epoch := p.epoch.Load()
	key := e.layout.Keys(partition).Ledger()
	messages, err := e.client().XRangeN(ctx, key, "("+after.String(), "+", int64(limit)).Result()
	if err == nil && len(messages) == 0 && wait > 0 {
		messages, err = l.block(ctx, key, after, limit, wait)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("meter: read ledger of partition %d: %w: %w", partition, ErrUnavailable, err)
	}
	records := make([]Record, len(messages))
	for i, m := range messages {
		if records[i], err = e.record(partition, m); err != nil {
			return nil, 0, err
		}
	}
	return records, epoch, nil
}

// block waits for a record. The first one wakes it; those written meanwhile come with the next read.
func (l *LedgerReader) block(
	ctx context.Context, key string, after Position, limit int, wait time.Duration,
) ([]redis.XMessage, error) {
	streams, err := l.engine.client().XRead(ctx, &redis.XReadArgs{
		Streams: []string{key, after.String()}, Count: int64(limit), Block: wait,
	}).Result()
	if errors.Is(err, redis.Nil) || err == nil && len(streams) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return streams[0].Messages, nil
}

func (e *Engine) record(partition uint16, m redis.XMessage) (Record, error) {
	body, _ := m.Values["e"].(string)
	rec, err := UnpackRecord([]byte(body))
	if err != nil {
		return Record{}, fmt.Errorf("meter: ledger record %s of partition %d: %w", m.ID, partition, err)
	}
	rec.Layout, rec.Partition = e.layout.Number, partition
	if _, err := fmt.Sscanf(m.ID, "%d-%d", &rec.Epoch, &rec.Pseq); err != nil {
		return Record{}, fmt.Errorf("meter: ledger record id %q: %w", m.ID, err)
	}
	return rec, nil
}

// Flushed tells Redis how far the ledger is in Postgres, and lets it forget records before trimTo (zero: none).
func (l *LedgerReader) Flushed(ctx context.Context, partition uint16, at, trimTo Position) error {
	o := newOp(verbFlushed, partition, NewID(l.engine.now()), "").
		u64(at.Epoch).u64(at.Pseq).u64(trimTo.Epoch).u64(trimTo.Pseq)
	_, err := l.engine.run(ctx, o)
	return err
}

// Head is the position of the newest record.
func (l *LedgerReader) Head(ctx context.Context, partition uint16) (Position, error) {
	pseq, err := l.engine.headPseq(ctx, partition)
	return Position{Epoch: l.engine.partitions[partition].epoch.Load(), Pseq: pseq}, err
}

// Reopen says that Postgres has a newer epoch than Redis runs under: an opening was claimed and not finished.
func (l *LedgerReader) Reopen(partition uint16) {
	p := l.engine.partitions[partition]
	p.reopen.Store(true)
	p.shut(p.epoch.Load(), CodeEpoch)
}
