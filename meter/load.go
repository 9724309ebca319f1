package meter

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// rebuildReaders is how many accounts are asked for at a time when a partition is rebuilt: the book answers those who
// ask together with a query or two.
const rebuildReaders = 256

// loadAccount brings one account from Postgres into Redis. Postgres must have all that Redis decided before: the
// flush cursor has to pass the head seen now. Nothing can be decided about the account meanwhile, since it is not
// loaded; what is open for it is frozen and is counted as held.
func (e *Engine) loadAccount(ctx context.Context, account string, partition uint16, asked ID) error {
	if account == "" { // extend or read by reservation id never answer NotLoaded
		return fmt.Errorf("meter: %s names no account: %w", asked, ErrNoAccount)
	}
	load := e.loads.DoChan(account, func() (any, error) {
		// Whoever began it may have little time left, or none, and others wait for it too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verbBudget)
		defer cancel()
		return nil, e.fetchAccount(ctx, account, partition)
	})
	select {
	case r := <-load:
		return r.Err
	case <-ctx.Done():
		return fmt.Errorf("meter: load %q: not done in time: %w: %w: %w", account, ErrUnavailable, ErrNotSent, ctx.Err())
	}
}

func (e *Engine) fetchAccount(ctx context.Context, account string, partition uint16) error {
	epoch := e.partitions[partition].epoch.Load() // before anything is read under it
	head, err := e.meta(ctx, partition)
	if err != nil {
		return err
	}
	for {
		a, at, err := e.book.Account(ctx, account)
		if errors.Is(err, ErrNoAccount) {
			return fmt.Errorf("meter: %q: %w", account, ErrNoAccount)
		}
		if err != nil {
			return fmt.Errorf("meter: load %q from Postgres: %w: %w: %w", account, ErrUnavailable, ErrNotSent, err)
		}
		if at.Pseq >= head.Pseq {
			return e.putAccount(ctx, account, partition, a, at, epoch)
		}
		if pause(ctx, cursorPoll) != nil {
			return fmt.Errorf("meter: load %q: the flusher is behind: %w: %w", account, ErrUnavailable, ErrNotSent)
		}
	}
}

func (e *Engine) putAccount(
	ctx context.Context, account string, partition uint16, a Account, at Cursor, epoch uint64,
) error {
	if a.Seq > 0 { // an account without an entry never had a grant: nothing is held, nothing was forgotten
		if err := e.addHolds(ctx, account, partition, &a); err != nil {
			return err
		}
		a.PrunedPseq = at.Pseq
	}
	o := e.loadOp(account, partition, a, epoch)
	if err := e.batch.do(o); err != nil {
		return err
	}
	return o.err // any fence, and another epoch, shows itself when the waiting verb is sent again
}

func (e *Engine) loadOp(account string, partition uint16, a Account, epoch uint64) *op {
	return newOp(verbLoad, partition, NewID(e.now()), account).u64(epoch).bytes16(AppendAccount(nil, a))
}

// eachOpen is scanOpen for those who need every reservation: one that cannot be read may be the one that holds an
// account's credit.
func (e *Engine) eachOpen(ctx context.Context, partition uint16, fn func(Reservation) error) error {
	return e.scanOpen(ctx, partition, func(err error) error { return err }, fn)
}

// scanOpen calls fn with every open reservation of a partition, in chunks of a bounded scan. HSCAN may show one
// twice. What cannot be read goes to unreadable, which ends the scan by returning the error.
func (e *Engine) scanOpen(
	ctx context.Context, partition uint16, unreadable func(error) error, fn func(Reservation) error,
) error {
	key, cursor := e.layout.Keys(partition).Open(), uint64(0)
	for {
		fields, next, err := e.client().HScan(ctx, key, cursor, "", 1000).Result()
		if err != nil {
			return fmt.Errorf("meter: scan open reservations: %w: %w: %w", ErrUnavailable, ErrNotSent, err)
		}
		for i := 0; i+1 < len(fields); i += 2 {
			r, err := UnpackReservation([]byte(fields[i+1]))
			if err != nil {
				if err := unreadable(fmt.Errorf("meter: open reservation %x: %w", fields[i], err)); err != nil {
					return err
				}
				continue
			}
			copy(r.ID.ID[:], fields[i])
			r.ID.Layout, r.ID.Partition = e.layout.Number, partition
			if err := fn(r); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// loadAll fills a partition that is being rebuilt. Accounts that are there from an attempt before stay as they are.
func (e *Engine) loadAll(ctx context.Context, partition uint16) (int, error) {
	dayAgo := e.now().UnixMilli() - keySlotMs
	err := e.rebuild.KeyedOutcomes(ctx, partition, dayAgo, func(rs []Reservation) error {
		ops := make([]*op, 0, len(rs))
		for _, r := range rs {
			o := newOp(verbLoadKey, partition, r.ID.ID, "")
			key := r.Note.Key
			r.Note = Note{}
			ops = append(ops, o.bytes16(AppendReservation(nil, r)).keyPart(key))
		}
		return e.loadMany(ops)
	})
	if err != nil {
		return 0, err
	}
	n := 0
	err = e.rebuild.Accounts(ctx, partition, func(names []string) error {
		ops := make([]*op, len(names))
		readers, ctx := errgroup.WithContext(ctx)
		readers.SetLimit(rebuildReaders)
		for i, name := range names {
			readers.Go(func() error {
				a, at, err := e.book.Account(ctx, name)
				a.PrunedPseq = at.Pseq
				ops[i] = e.loadOp(name, partition, a, e.partitions[partition].epoch.Load())
				return err
			})
		}
		if err := readers.Wait(); err != nil {
			return err
		}
		n += len(names)
		return e.loadMany(ops)
	})
	return n, err
}

// loadMany sends load operations and takes anything but success as a failure.
func (e *Engine) loadMany(ops []*op) error {
	for len(ops) > 0 {
		part := ops[:min(len(ops), flightMax)]
		ops = ops[len(part):]
		if err := e.batch.do(part...); err != nil {
			return err
		}
		for _, o := range part {
			if o.err != nil {
				return o.err
			}
			if o.code != CodeOK {
				return fmt.Errorf("load %q: %s: %s", o.account, o.code, o.body)
			}
		}
	}
	return nil
}
