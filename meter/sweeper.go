package meter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The sweeper does what time alone decides about a partition: leases that are over, outcomes that may be forgotten.
// What grants have left at their end is the lapser's. The scripts check each again, so a second sweeper would do no
// harm; the lock only saves work. What it cannot handle it counts and passes over, since everything else of the
// partition is due all the same.
const (
	sweepEvery = time.Second
	sweepLock  = 3 * time.Second // a dead sweeper is replaced after this; held 0 within lease + 5 s rests on it
	sweepLoads = time.Second     // for loading accounts in one sweep; the others are due in the next one
	slotsEvery = 30              // sweeps
)

// sweep is one round on one partition.
type sweep struct {
	*Engine

	p       *partition
	loads   context.Context //nolint:containedctx // what is left of sweepLoads; ends with the round
	loaded  int             // accounts brought into Redis, whose holds the next round handles
	skipped int
	first   error // why the first was skipped
}

func (e *Engine) sweepLoop(ctx context.Context, p *partition) {
	skipped := 0 // in the last round
	for n := 0; ; n++ {
		if sweepPause(ctx) != nil {
			return
		}
		if p.state().State != "open" {
			continue
		}
		s := &sweep{Engine: e, p: p}
		if err := s.run(ctx, n%slotsEvery == 0); err != nil && ctx.Err() == nil {
			e.outages.Log(e.log, unreached(err)).Uint16("partition", p.number).Msg("sweep failed; the next one tries again")
		}
		// The same holds are skipped every second: told when their number changes, and now and then.
		if s.skipped > 0 && (s.skipped != skipped || n%slotsEvery == 0) {
			e.log.Error().Err(s.first).Uint16("partition", p.number).Int("skipped", s.skipped).
				Msg("sweep passed over what it cannot handle; the error is the first one's")
		}
		skipped = s.skipped
	}
}

// sweepPause waits for the next round; those of several gateways and partitions are spread by chance.
func sweepPause(ctx context.Context) error {
	return pause(ctx, sweepEvery-time.Duration(rand.Int64N(int64(sweepEvery/4))))
}

// skip counts one hold, lapse or slot that cannot be handled.
func (s *sweep) skip(what string, err error) {
	s.metrics.skipped.WithLabelValues(what).Inc()
	if s.skipped++; s.first == nil {
		s.first = err
	}
}

// run does the round if this gateway has the lock. No part of it waits for another to succeed.
func (s *sweep) run(ctx context.Context, slots bool) error {
	keys := s.layout.Keys(s.p.number)
	open, err := s.client().HLen(ctx, keys.Open()).Result()
	if err != nil {
		return err
	}
	s.metrics.open.WithLabelValues(strconv.Itoa(int(s.p.number))).Set(float64(open))
	if mine, err := s.lockSweep(ctx, keys.tag+"sweeper"); err != nil || !mine {
		return err
	}
	var cancel context.CancelFunc
	s.loads, cancel = context.WithTimeout(ctx, sweepLoads)
	defer cancel()
	if open > 0 {
		err = s.expireDue(ctx)
	}
	if slots {
		err = errors.Join(err, s.dropSlots(ctx))
	}
	return err
}

// lockSweep takes or keeps a lock. It guards no credit, so it may be lost at any time.
func (e *Engine) lockSweep(ctx context.Context, key string) (bool, error) {
	return e.function(ctx, e.library.Lock, []string{key}, e.name, sweepLock.Milliseconds()).Bool()
}

func ignoreNil(err error) error {
	if err == redis.Nil { //nolint:errorlint // go-redis returns the sentinel itself
		return nil
	}
	return err
}

// expireDue ends the reservations whose lease is over. The tick before it tells the partition's clock, and keeps
// last_ms fresh while leases run, so that the length of an outage is known.
func (s *sweep) expireDue(ctx context.Context) error {
	tick := newOp(verbTick, s.p.number, NewID(s.now()), "")
	if err := s.send([]*op{tick}); err != nil {
		return err
	}
	up := tick.head.nowMs - tick.head.downMs
	var due []*op
	unreadable := func(err error) error {
		s.skip("hold", err)
		return nil
	}
	err := s.scanOpen(ctx, s.p.number, unreadable, func(r Reservation) error {
		if r.DeadlineMs > up {
			return nil
		}
		due = append(due, settleOp(verbExpire, r.ID, r.Account))
		if len(due) < flightMax {
			return nil
		}
		batch := due
		due = nil
		return s.expire(batch)
	})
	return errors.Join(err, s.expire(due))
}

func (s *sweep) expire(due []*op) error {
	if err := s.send(due); err != nil {
		return err
	}
	var cold []*op
	for _, o := range due {
		switch {
		case o.err != nil:
			s.skip("hold", o.err)
		case o.code == CodeOK:
			s.metrics.expired.Inc()
		case o.code == CodeNotLoaded:
			cold = append(cold, o)
		case o.code == CodeNotDue || o.code == CodeUnknown: // settled or extended since the scan
		default:
			s.skip("hold", fmt.Errorf("expire %s: %s: %s", o.id, o.code, o.body))
		}
	}
	s.load("hold", cold)
	return nil
}

// load brings the accounts of operations into Redis, side by side, so that they share a look at the holds. It returns
// the operations that are to be sent again.
func (s *sweep) load(what string, cold []*op) (again []*op) {
	errs := make([]error, len(cold)) // at most flightMax
	var loads sync.WaitGroup
	for i, o := range cold {
		loads.Go(func() { errs[i] = s.loadAccount(s.loads, o.account, o.partition, o.id) })
	}
	loads.Wait()
	for i, o := range cold {
		if errs[i] != nil {
			s.skip(what, errs[i])
			continue
		}
		s.loaded++
		again = append(again, o)
	}
	return again
}

// SweepNow books everything that is due now, whoever has the locks: after a test clock was moved, so that what follows
// finds it done. Rounds go on while they bring accounts into Redis, until ctx ends. Lapses come first, since they wait
// for Postgres to have what Redis has, and leases that end make more of that.
func (e *Engine) SweepNow(ctx context.Context) error {
	for _, p := range e.partitions {
		if err := p.waitOpen(ctx); err != nil {
			return err
		}
	}
	if err := e.lapseNow(ctx); err != nil {
		return fmt.Errorf("meter: lapses: %w", err)
	}
	for _, p := range e.partitions {
		for {
			s := &sweep{Engine: e, p: p}
			err := s.all(ctx)
			if err == nil && s.loaded > 0 && ctx.Err() == nil {
				continue
			}
			if err = errors.Join(err, s.first, ctx.Err()); err != nil {
				return fmt.Errorf("meter: sweep of partition %d: %w", p.number, err)
			}
			break
		}
	}
	return nil
}

// all is one round without the lock. Its tick lets the partition see the time, whatever else there is to do.
func (s *sweep) all(ctx context.Context) error {
	var cancel context.CancelFunc
	s.loads, cancel = context.WithTimeout(ctx, sweepLoads)
	defer cancel()
	return errors.Join(s.expireDue(ctx), s.dropSlots(ctx))
}

// dropSlots forgets outcome slots that are old enough; the script decides.
func (s *sweep) dropSlots(ctx context.Context) error {
	keys := s.layout.Keys(s.p.number)
	slots, err := s.client().HKeys(ctx, keys.Slots()).Result()
	if err != nil {
		return err
	}
	var ops []*op
	for _, slot := range slots {
		o := s.dropOp(s.p.number, keys, slot)
		if o == nil {
			s.skip("slot", fmt.Errorf("slots: %q names no slot", slot))
			continue
		}
		ops = append(ops, o)
	}
	for part := range slices.Chunk(ops, flightMax) {
		if err := s.send(part); err != nil {
			return err
		}
		for _, o := range part {
			if o.err != nil || o.code == CodeError {
				s.skip("slot", fmt.Errorf("drop slot %d: %w: %s", o.slot.number, o.err, o.body))
			}
		}
	}
	return nil
}

func (e *Engine) dropOp(partition uint16, keys Keys, slot string) *op {
	what, ref, width := byte(1), slotRef{partition: partition}, int64(doneSlotMs)
	number, ok := strings.CutPrefix(slot, keys.tag+"done:")
	if !ok {
		what, ref.day, width = 2, true, keySlotMs
		number, ok = strings.CutPrefix(slot, keys.tag+"keys:")
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || strconv.FormatInt(n, 10) != number {
		return nil
	}
	o := newOp(verbDrop, partition, NewID(e.now()), "").u8(what).i48((n + 1) * width)
	ref.number = n
	o.slot = ref
	return o
}

// send sends operations of a sweep and leaves to the caller what became of each. Only what concerns all of them is an
// error: a Redis that does not answer, and a partition that is not open, which is then opened.
func (s *sweep) send(ops []*op) error {
	if len(ops) == 0 {
		return nil
	}
	if err := s.batch.do(ops...); err != nil {
		return err
	}
	for _, o := range ops {
		if errors.Is(o.err, ErrUnavailable) {
			return o.err
		}
		if o.err != nil || o.head.code == CodeOK {
			continue
		}
		return s.refused(o)
	}
	return nil
}

// refused is the error of an operation whose partition was not reached, or takes none, which is then opened.
func (s *sweep) refused(o *op) error {
	if o.err != nil {
		return o.err
	}
	if o.head.code != CodeClock { // opening again does not set a clock right
		s.partitions[o.partition].shut(o.epoch, o.head.code)
	}
	return fmt.Errorf("partition %d: %w: %w: %s: %s", o.partition, errClosed, ErrUnavailable, o.head.code, o.body)
}
