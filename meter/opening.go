package meter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Opening: a partition is used only after it was compared with Postgres since Redis last started.
//
//	meta is there, this incarnation, open     join it
//	heads equal, or Redis ahead               a new epoch; the flusher goes on
//	Redis empty                               rebuilt from Postgres under a new epoch
//	Postgres ahead, other record, torn        stays fenced, and /readyz names it
const (
	openRetryMin = 50 * time.Millisecond
	openRetryMax = time.Second
	openTimeout  = 5 * time.Minute // a rebuild loads every account of the partition
	cursorPoll   = 5 * time.Millisecond
	loadingIdle  = 5 * time.Second // a rebuild that wrote nothing for so long is taken over
)

// openLoop opens the partition whenever it is not open, until ctx ends.
func (e *Engine) openLoop(ctx context.Context, p *partition) {
	wait := openRetryMin
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		for p.state().State != "open" {
			err := e.openPartition(ctx, p)
			if err == nil {
				wait = openRetryMin
				break
			}
			if p.fenced(err.Error()) { // else it would be a line for each attempt
				e.outages.Log(e.log, err).Uint16("partition", p.number).Msg("partition not open")
			} else {
				e.log.Debug().Err(err).Uint16("partition", p.number).Msg("partition still not open")
			}
			if pause(ctx, wait) != nil {
				return
			}
			wait = min(2*wait, openRetryMax)
		}
	}
}

// partitionMeta is what opening compares.
type partitionMeta struct {
	Meta

	exists bool
	replid string        // of the Redis that answered
	idle   time.Duration // since anything was written
}

func (e *Engine) openPartition(ctx context.Context, p *partition) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	client := e.client()
	if err := CheckRedis(ctx, client); err != nil {
		return err
	}
	// A Redis that is full takes no library. It may have it, and if not, what makes room goes by script.
	if err := loadLibrary(ctx, client, e.library); err != nil && !isFull(err) {
		return err
	}
	if err := e.checkLayout(ctx, client); err != nil {
		return err
	}
	m, err := e.readMeta(ctx, client, p.number)
	switch {
	case err != nil:
		return err
	case m.Torn:
		return fmt.Errorf("%w: a write failed half-way in Redis; compare with Postgres and rebuild", ErrFenced)
	case m.exists && !m.Loading && m.Incarnation == m.replid && m.Pseq >= p.minPseq.Load() && !p.reopen.Load():
		p.open(m.Epoch, m.Pseq)
		return nil
	}
	empty := !m.exists || m.Loading
	if m.Loading && m.idle < loadingIdle && m.Epoch != p.epoch.Load() {
		return errors.New("another gateway is rebuilding it")
	}
	if _, err := e.compare(ctx, p, m, empty); err != nil {
		return err // refused before an epoch is claimed: a partition that stays fenced locks nobody out
	}
	// Claimed before the cursor is read for good: from here on no flusher of an older epoch can move it.
	epoch, err := e.book.ClaimEpoch(ctx, p.number, m.Epoch)
	if err != nil {
		return fmt.Errorf("claim an epoch: %w", err)
	}
	at, err := e.compare(ctx, p, m, empty)
	if err != nil {
		return err
	}
	e.countLost(p, m, at, empty)
	if empty {
		return e.rebuildPartition(ctx, p, m, epoch, at)
	}
	return e.resumePartition(ctx, p, m, epoch, at)
}

// compare reads the cursor and says whether Redis has everything that Postgres has. An empty Redis has nothing that
// could disagree.
func (e *Engine) compare(ctx context.Context, p *partition, m partitionMeta, empty bool) (Cursor, error) {
	at, err := e.book.Cursor(ctx, p.number)
	if err != nil {
		return at, fmt.Errorf("cursor in Postgres: %w", err)
	}
	if empty {
		return at, nil
	}
	return at, e.continues(ctx, p.number, m.Meta, at)
}

// continues says whether Redis' ledger goes on from Postgres' at this cursor. It may be called while traffic goes on if
// the meta was read after the cursor.
func (e *Engine) continues(ctx context.Context, partition uint16, m Meta, at Cursor) error {
	switch {
	case m.Pseq < at.Pseq:
		return fmt.Errorf("%w: Postgres has %d ledger records more than Redis", ErrFenced, at.Pseq-m.Pseq)
	case at.Pseq < m.Base:
		return fmt.Errorf("%w: Postgres has lost %d ledger records since Redis was rebuilt from it", ErrFenced, m.Base-at.Pseq)
	case at.Pseq == m.Base: // the stream begins after it
		return nil
	}
	body, err := e.recordAt(ctx, partition, at.Position)
	if err != nil {
		return err
	}
	if !bytes.Equal(body, at.Body) {
		return fmt.Errorf("%w: record %s in Redis is not the one in Postgres: their histories have forked",
			ErrFenced, at.Position)
	}
	return nil
}

// countLost tells of ledger records that this gateway saw in Redis and nobody has any more.
func (e *Engine) countLost(p *partition, m partitionMeta, at Cursor, empty bool) {
	head := m.Pseq
	if empty {
		head = at.Pseq
	}
	if seen := p.minPseq.Load(); head < seen && p.lost != seen { // once, however often opening is tried
		p.lost = seen
		e.metrics.lostRecords.Add(float64(seen - head))
		e.log.Error().Uint16("partition", p.number).Uint64("records", seen-head).
			Msg("Redis lost ledger records that were not flushed yet")
	}
}

// resumePartition opens a Redis that has everything Postgres has.
func (e *Engine) resumePartition(ctx context.Context, p *partition, m partitionMeta, epoch uint64, at Cursor) error {
	if err := e.callOpen(ctx, p.number, "resume", epoch, m.Epoch, at.Position); err != nil {
		return err
	}
	p.reopen.Store(false)
	p.open(epoch, m.Pseq)
	e.log.Info().Uint16("partition", p.number).Uint64("epoch", epoch).Uint64("unflushed", m.Pseq-at.Pseq).
		Msg("partition resumed")
	return nil
}

// rebuildPartition fills an empty Redis from Postgres: every account, and the charged Idempotency-Keys of a day.
func (e *Engine) rebuildPartition(ctx context.Context, p *partition, m partitionMeta, epoch uint64, at Cursor) error {
	if err := e.callOpen(ctx, p.number, "rebuild", epoch, m.Epoch, at.Position); err != nil {
		return err
	}
	p.epoch.Store(epoch)
	p.minPseq.Store(at.Pseq)
	accounts, err := e.loadAll(ctx, p.number)
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	if err := e.callOpen(ctx, p.number, "loaded", epoch, epoch, at.Position); err != nil {
		return err
	}
	p.reopen.Store(false)
	p.open(epoch, at.Pseq)
	e.log.Info().Uint16("partition", p.number).Uint64("epoch", epoch).Int("accounts", accounts).
		Msg("partition rebuilt from Postgres")
	return nil
}

func (e *Engine) callOpen(
	ctx context.Context, partition uint16, mode string, epoch, expected uint64, flushed Position,
) error {
	keys := e.layout.Keys(partition)
	now, offset := e.read()
	reply, err := e.function(ctx, e.library.Open,
		[]string{keys.Meta(), keys.Ledger(), keys.Open(), keys.Slots()},
		mode, epoch, expected, flushed.Pseq, flushed.Epoch, now.UnixMilli(), offset.Milliseconds()).Int64Slice()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if len(reply) != 2 || Code(reply[0]) != CodeOK {
		// Without the time in the reply: a reason that stays the same is told once.
		return fmt.Errorf("%s: %s: %v", mode, openRefusal(reply), reply[:min(len(reply), 1)])
	}
	return nil
}

// openRefusal says what a refusal to open means and what to do.
func openRefusal(reply []int64) string {
	code := CodeError
	if len(reply) == 2 {
		code = Code(reply[0])
	}
	switch code {
	case CodeRegressed:
		return "Redis has keys of the partition but no meta; restore its data, or delete them to rebuild from Postgres"
	case CodeClock:
		return "this host's clock, or Redis', is more than a minute off; correct it (meta.last_ms too, if it lies ahead)"
	default:
		return "Redis is not as it was when compared (" + code.String() + "); trying again"
	}
}

func (e *Engine) readMeta(ctx context.Context, client redis.UniversalClient, partition uint16) (partitionMeta, error) {
	key := e.layout.Keys(partition).Meta()
	pipe := client.Pipeline()
	packed := pipe.Get(ctx, key)
	// Through a script, so that in Cluster it is answered by the node that holds the partition.
	server := pipe.Eval(ctx, `#!lua flags=no-writes
return {string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)'), redis.call('TIME')[1] .. '000'}`, []string{key})
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return partitionMeta{}, fmt.Errorf("read meta: %w", err)
	}
	about, err := server.StringSlice()
	if err != nil || len(about) != 2 {
		return partitionMeta{}, fmt.Errorf("read the incarnation: %v: %w", about, err)
	}
	m := partitionMeta{replid: about[0]}
	b, err := packed.Bytes()
	if errors.Is(err, redis.Nil) {
		return m, nil
	}
	if err == nil {
		m.Meta, err = UnpackMeta(b)
	}
	if err != nil {
		return m, fmt.Errorf("read meta: %w", err)
	}
	nowMs, _ := strconv.ParseInt(about[1], 10, 64)
	m.exists, m.idle = true, time.Duration(nowMs-m.LastMs)*time.Millisecond+e.clock.Offset()
	return m, nil
}

// recordAt is the body of one ledger record in Redis; nil if it is not there.
func (e *Engine) recordAt(ctx context.Context, partition uint16, at Position) ([]byte, error) {
	messages, err := e.client().XRange(ctx, e.layout.Keys(partition).Ledger(), at.String(), at.String()).Result()
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	body, _ := messages[0].Values["e"].(string)
	return []byte(body), nil
}

// meta reads a partition's meta from a Redis that must have it.
func (e *Engine) meta(ctx context.Context, partition uint16) (Meta, error) {
	b, err := e.client().Get(ctx, e.layout.Keys(partition).Meta()).Bytes()
	var m Meta
	if err == nil {
		m, err = UnpackMeta(b)
	}
	if err != nil { // without meta there is no head, not even 0
		return m, fmt.Errorf("meter: head of partition %d: %w: %w: %w", partition, ErrUnavailable, ErrNotSent, err)
	}
	return m, nil
}

// layoutKey holds the layout that this Redis was filled under; it belongs to no partition.
const layoutKey = "creditgate:layout"

func (e *Engine) checkLayout(ctx context.Context, client redis.UniversalClient) error {
	want := fmt.Sprintf("%d/%d", e.layout.Number, e.layout.Partitions)
	have, err := client.Get(ctx, layoutKey).Result() // first, since a Redis that is full takes no SET
	if errors.Is(err, redis.Nil) {
		if err = client.SetNX(ctx, layoutKey, want, 0).Err(); err == nil {
			have, err = client.Get(ctx, layoutKey).Result()
		}
	}
	if err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	if have != want {
		return fmt.Errorf("%w: Redis was filled under layout %s, this gateway has %s (number/partitions); "+
			"drain and rebuild to change it", ErrFenced, have, want)
	}
	return nil
}
