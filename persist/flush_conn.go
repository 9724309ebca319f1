package persist

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// errLockLost says that the connection which held a partition's advisory lock is gone. Nothing was written.
var errLockLost = errors.New("the connection that had the lead is gone")

// flushConn is one of the flusher's connections. Several partitions share it: it holds their advisory locks, and what
// they have to write at one moment goes into one transaction. A connection that breaks takes the lead of all of them,
// and each takes it again by itself.
type flushConn struct {
	store  *Store
	number int
	onStep func(partition uint16, step Step)
	wrote  func(b *flushBatch, took time.Duration)

	queued sync.Mutex
	queue  []*flushWrite // at most one for each partition

	mu       sync.Mutex // held by whoever uses the connection
	conn     *pgx.Conn
	failed   error // of the last attempt to connect …
	failedAt time.Time
}

// flushWrite is one partition's batch on its way. Whoever has the connection writes it, and says how that went.
type flushWrite struct {
	partition uint16
	held      *pgx.Conn // has the partition's lock
	claimed   uint64
	batch     *flushBatch
	done      bool
	err       error
}

// lock tries to take a partition's advisory lock and returns the connection that has it, nil if another gateway does.
func (c *flushConn) lock(ctx context.Context, partition uint16) (held *pgx.Conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	held = c.conn
	var leads bool
	err = c.use(ctx, connectTimeout, func(ctx context.Context) error {
		return c.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`,
			lockClass+c.store.layoutNumber(), int(partition)).Scan(&leads)
	})
	if err != nil || !leads {
		return nil, storeError("take the lead", err)
	}
	return held, nil
}

// unlock gives the lead away. A connection that cannot say so is closed, which does it too.
func (c *flushConn) unlock(ctx context.Context, partition uint16, held *pgx.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held == nil || held != c.conn {
		return
	}
	err := c.use(ctx, time.Second, func(ctx context.Context) error {
		_, err := c.conn.Exec(ctx, `SELECT pg_advisory_unlock($1, $2)`, lockClass+c.store.layoutNumber(), int(partition))
		return err
	})
	if err != nil {
		c.drop(ctx)
	}
}

// cursor reads what is committed of a partition, the epoch claimed for it, and whose entries are quarantined.
func (c *flushConn) cursor(ctx context.Context, w *flushWorker) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.held != c.conn || c.conn == nil {
		return storeError("read flush cursor", errLockLost)
	}
	var hash []byte
	err := c.use(ctx, writeTimeout, func(ctx context.Context) error {
		return c.conn.QueryRow(ctx, `SELECT epoch, cursor_epoch, cursor_pseq, cursor_hash FROM creditgate.partition
			WHERE layout = $1 AND partition = $2`, c.store.layoutNumber(), int(w.partition)).
			Scan(&w.claimed, &w.at.Epoch, &w.at.Pseq, &hash)
	})
	copy(w.at.Hash[:], hash)
	if err == nil {
		err = c.use(ctx, writeTimeout, func(ctx context.Context) error {
			return quarantinedOf(ctx, c.conn, c.store.layoutNumber(), w)
		})
	}
	return storeError("read flush cursor", err)
}

// write commits a batch, together with those of other partitions that wait at the same moment.
func (c *flushConn) write(ctx context.Context, write *flushWrite) error {
	c.queued.Lock()
	c.queue = append(c.queue, write)
	c.queued.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !write.done { // somebody may have written it while this one waited for the connection
		c.writeTogether(ctx, c.take())
	}
	return write.err
}

// take returns those who wait, oldest first, up to a transaction's worth of entries.
func (c *flushConn) take() []*flushWrite {
	c.queued.Lock()
	defer c.queued.Unlock()
	n, entries := 0, 0
	for n < len(c.queue) && entries < batchEntries {
		entries += c.queue[n].batch.entries
		n++
	}
	taken := c.queue[:n:n]
	c.queue = c.queue[n:]
	return taken
}

// writeTogether writes batches of several partitions in one transaction. When Postgres refuses that, each gets a
// transaction of its own: one partition's broken ledger or moved cursor must not stop the others.
func (c *flushConn) writeTogether(ctx context.Context, writes []*flushWrite) {
	if len(writes) > 1 {
		if merged := spareBatch(&c.store.batches); merged.merge(writes) && c.held(writes) {
			err := c.transact(ctx, writes, merged)
			if err == nil {
				merged.free(&c.store.batches)
			}
			if err == nil || c.conn == nil {
				for _, w := range writes {
					w.done, w.err = true, storeError("flush", err)
				}
				return
			}
		}
	}
	for i, w := range writes {
		w.done, w.err = true, errLockLost
		if c.held(writes[i : i+1]) {
			w.err = c.transact(ctx, writes[i:i+1], w.batch)
		}
		if !errors.Is(w.err, errCursorMoved) {
			w.err = flushError(w.partition, w.err)
		}
	}
}

// held reports whether the connection has the locks of all of them.
func (c *flushConn) held(writes []*flushWrite) bool {
	for _, w := range writes {
		if c.conn == nil || w.held != c.conn {
			return false
		}
	}
	return true
}

// transact writes one transaction. After an error the connection is dropped unless the transaction was certainly
// rolled back: whether COMMIT happened is then told by the cursor, on a new one.
func (c *flushConn) transact(ctx context.Context, writes []*flushWrite, b *flushBatch) error {
	began := time.Now()
	err := c.use(ctx, writeTimeout, func(ctx context.Context) error {
		tx, err := c.conn.Begin(ctx)
		if err != nil {
			return err
		}
		if err := c.writeRows(ctx, tx, writes, b); err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx)) // a failure closes the connection
			if preparedAway(err) {
				c.drop(ctx)
			}
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			c.drop(ctx)
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.wrote(b, time.Since(began))
	for _, w := range writes {
		c.onStep(w.partition, StepCommitted)
	}
	return nil
}

// writeRows moves the cursors first, which takes their rows' locks. Were that last, a second flusher would run into
// unique indexes before it noticed that it is the second, and that is what an alarm looks like.
func (c *flushConn) writeRows(ctx context.Context, tx pgx.Tx, writes []*flushWrite, b *flushBatch) error {
	partitions := make([]int32, len(writes))
	var numbers [5][]int64
	hashes := make([][]byte, len(writes))
	for i, w := range writes {
		from, to := w.batch.from, w.batch.to
		partitions[i], hashes[i] = int32(w.partition), to.Hash[:]
		for n, v := range [...]uint64{w.claimed, from.Epoch, from.Pseq, to.Epoch, to.Pseq} {
			numbers[n] = append(numbers[n], int64(v))
		}
	}
	tag, err := tx.Exec(ctx, `UPDATE creditgate.partition p
		SET cursor_epoch = u.to_epoch, cursor_pseq = u.to_pseq, cursor_hash = u.hash
		FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[])
			u (partition, claimed, from_epoch, from_pseq, to_epoch, to_pseq, hash)
		WHERE p.layout = $1 AND p.partition = u.partition AND p.epoch = u.claimed
			AND p.cursor_epoch = u.from_epoch AND p.cursor_pseq = u.from_pseq`,
		c.store.layoutNumber(), partitions, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], hashes)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != int64(len(writes)) {
		return errCursorMoved
	}
	if err := copyLedger(ctx, tx, c.store.layoutNumber(), b); err != nil {
		return err
	}
	for _, w := range writes {
		c.onStep(w.partition, StepCopied)
	}
	if b.quarantines() {
		if err := c.quarantineRows(ctx, tx, writes[0].partition, b); err != nil {
			return err
		}
	}
	return project(ctx, tx, b)
}

// connect makes the connection if there is none. A failure counts for all who ask within connectAgain: with a host
// that does not answer, each attempt takes connectTimeout, and the partitions would wait for it one after the other.
func (c *flushConn) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	if c.failed != nil && time.Since(c.failedAt) < connectAgain {
		return c.failed
	}
	config := c.store.pool.Config().ConnConfig
	config.RuntimeParams["application_name"] = fmt.Sprintf("creditgate flusher %d", c.number)
	config.RuntimeParams["synchronous_commit"] = "on" // Redis forgets what we say is committed
	conn, err := pgx.ConnectConfig(ctx, config)
	c.failed, c.failedAt = storeError("connect", err), time.Now()
	if err == nil {
		c.conn = conn
	}
	return c.failed
}

// use runs fn on the connection within a time, and drops the connection if fn left it closed.
func (c *flushConn) use(ctx context.Context, within time.Duration, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := fn(ctx)
	if c.conn != nil && c.conn.IsClosed() {
		c.drop(ctx)
	}
	return err
}

// drop closes the connection, and with it gives up all locks it has.
func (c *flushConn) drop(ctx context.Context) {
	if c.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.conn.Close(ctx) // it is closed whatever the server answers
	c.conn = nil
}

// close ends the connection when nobody uses it any more.
func (c *flushConn) close(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(ctx)
}
