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
//	Postgres ahead, other record, torn        stays closed; closed.go has the way out of each
const (
	openRetryMin = 50 * time.Millisecond
	openRetryMax = time.Second
	openTimeout  = 5 * time.Minute // a rebuild loads every account of the partition
	cursorPoll   = 5 * time.Millisecond
	loadingIdle  = 5 * time.Second // a rebuild that wrote nothing for so long is taken over
)

// What the next attempt to open a partition cures by itself.
var (
	errRebuilding = errors.New("another gateway is rebuilding it from Postgres")
	errChanged    = errors.New("Redis is not as it was when it was compared")
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
			if advice := adviceFor(err); p.fenced(err.Error(), advice) { // else it would be a line for each attempt
				e.outages.Log(e.log, err).Uint16("partition", p.number).Str("do", advice.Do).Str("cost", advice.Cost).
					Msg("partition not open")
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

	exists  bool
	replid  string        // of the Redis that answered
	redisMs int64         // its clock, a test clock's offset included
	idle    time.Duration // since anything was written
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
		return e.torn(p.number)
	case m.exists && !m.Loading && m.Incarnation == m.replid && m.Pseq >= p.minPseq.Load() && !p.reopen.Load():
		p.open(m.Epoch, m.Pseq)
		return nil
	}
	empty := !m.exists || m.Loading
	if m.Loading && m.idle < loadingIdle && m.Epoch != p.epoch.Load() {
		return errRebuilding
	}
	if _, err := e.compare(ctx, p, m, empty); err != nil {
		return err // refused before an epoch is claimed: a partition that stays fenced locks nobody out
	}
	// Claimed before the cursor is read for good: from here on no flusher of an older epoch can move it.
	epoch, err := e.book.ClaimEpoch(ctx, p.number, m.Epoch)
	if err != nil {
		return databaseAway(fmt.Errorf("claim an epoch: %w", err))
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
		return at, databaseAway(fmt.Errorf("cursor in Postgres: %w", err))
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
		return e.redisBehind(partition, at.Pseq-m.Pseq)
	case at.Pseq < m.Base:
		return e.postgresBehind(partition,
			fmt.Sprintf("Postgres has lost %d ledger records since Redis was rebuilt from it", m.Base-at.Pseq))
	case at.Pseq == m.Base: // the stream begins after it
		return nil
	}
	body, err := e.recordAt(ctx, partition, at.Position)
	switch {
	case err != nil:
		return err
	case body == nil:
		return e.trimmed(ctx, partition, m, at)
	case !bytes.Equal(body, at.Body):
		return e.forked(partition, at.Position)
	}
	return nil
}

// trimmed is why Redis has no record at Postgres' cursor: its ledger begins later, or has another record in its place.
func (e *Engine) trimmed(ctx context.Context, partition uint16, m Meta, at Cursor) error {
	first, err := e.client().XRangeN(ctx, e.layout.Keys(partition).Ledger(), "-", "+", 1).Result()
	if err != nil {
		return err
	}
	begins := m.Pseq + 1
	if len(first) > 0 {
		p, err := parsePosition(first[0].ID)
		if err != nil {
			return err
		}
		begins = p.Pseq
	}
	if begins <= at.Pseq {
		return e.forked(partition, at.Position)
	}
	return e.postgresBehind(partition, fmt.Sprintf("Postgres ends with ledger record %d, and Redis has dropped what was flushed "+
		"before %d: Postgres has lost %d records", at.Pseq, begins, begins-1-at.Pseq))
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
	if err := e.callOpen(ctx, p.number, m, "resume", epoch, m.Epoch, at.Position); err != nil {
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
	if err := e.callOpen(ctx, p.number, m, "rebuild", epoch, m.Epoch, at.Position); err != nil {
		return err
	}
	p.epoch.Store(epoch)
	p.minPseq.Store(at.Pseq)
	accounts, err := e.loadAll(ctx, p.number)
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	if err := e.callOpen(ctx, p.number, m, "loaded", epoch, epoch, at.Position); err != nil {
		return err
	}
	p.reopen.Store(false)
	p.open(epoch, at.Pseq)
	e.log.Info().Uint16("partition", p.number).Uint64("epoch", epoch).Int("accounts", accounts).
		Msg("partition rebuilt from Postgres")
	return nil
}

func (e *Engine) callOpen(
	ctx context.Context, partition uint16, m partitionMeta, mode string, epoch, expected uint64, flushed Position,
) error {
	keys := e.layout.Keys(partition)
	now, offset := e.read()
	reply, err := e.function(ctx, e.library.Open,
		[]string{keys.Meta(), keys.Ledger(), keys.Open(), keys.Slots()},
		mode, epoch, expected, flushed.Pseq, flushed.Epoch, now.UnixMilli(), offset.Milliseconds()).Int64Slice()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if len(reply) != 2 {
		return fmt.Errorf("%s: %w: the answer is %v", mode, ErrPacked, reply)
	}
	switch code := Code(reply[0]); code {
	case CodeOK:
		return nil
	case CodeTorn:
		return e.torn(partition)
	case CodeClock:
		return e.wrongClock(partition, m, now)
	case CodeRegressed:
		if mode == "rebuild" {
			return e.metaLost(partition)
		}
		return fmt.Errorf("%w: %s", errChanged, code)
	default:
		return fmt.Errorf("%w: %s", errChanged, code)
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
	m.redisMs, _ = strconv.ParseInt(about[1], 10, 64)
	m.redisMs += e.clock.Offset().Milliseconds()
	b, err := packed.Bytes()
	if errors.Is(err, redis.Nil) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read meta: %w", err)
	}
	if m.Meta, err = UnpackMeta(b); err != nil {
		return m, e.otherFormat(partition, err)
	}
	m.exists, m.idle = true, time.Duration(m.redisMs-m.LastMs)*time.Millisecond
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
	want := e.layout.text()
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
		return e.otherLayout(want, have)
	}
	return nil
}
