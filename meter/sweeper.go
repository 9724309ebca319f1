package meter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The sweeper books what time alone decides: leases that are over, grants that have expired, outcomes that may be
// forgotten. The scripts check each again, so a second sweeper would do no harm; the lock only saves work. What it
// cannot handle it counts and passes over, since everything else of the partition is due all the same.
const (
	sweepEvery   = time.Second
	sweepLock    = 3 * time.Second // a dead sweeper is replaced after this; held 0 within lease + 5 s rests on it
	sweepLoads   = time.Second     // for loading accounts in one sweep; the others are due in the next one
	lapsesAtOnce = 64              // when a month ends for everybody, requests wait behind no longer call than this
	slotsEvery   = 30              // sweeps
)

// sweep is one round on one partition.
type sweep struct {
	*Engine

	p       *partition
	loads   context.Context //nolint:containedctx // what is left of sweepLoads; ends with the round
	loaded  int             // accounts brought into Redis, whose holds and grants the next round handles
	skipped int
	first   error // why the first was skipped
}

func (e *Engine) sweepLoop(ctx context.Context, p *partition) {
	skipped := 0 // in the last round
	for n := 0; ; n++ {
		jitter := time.Duration(rand.Int64N(int64(sweepEvery / 4)))
		if pause(ctx, sweepEvery-jitter) != nil {
			return
		}
		if p.state().State != "open" {
			continue
		}
		s := &sweep{Engine: e, p: p}
		if err := s.run(ctx, n%slotsEvery == 0); err != nil && ctx.Err() == nil {
			e.log.Warn().Err(err).Uint16("partition", p.number).Msg("sweep failed; the next one tries again")
		}
		// The same holds are skipped every second: told when their number changes, and now and then.
		if s.skipped > 0 && (s.skipped != skipped || n%slotsEvery == 0) {
			e.log.Error().Err(s.first).Uint16("partition", p.number).Int("skipped", s.skipped).
				Msg("sweep passed over what it cannot handle; the error is the first one's")
		}
		skipped = s.skipped
	}
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
	if mine, err := s.lockSweep(ctx, keys); err != nil || !mine {
		return err
	}
	var cancel context.CancelFunc
	s.loads, cancel = context.WithTimeout(ctx, sweepLoads)
	defer cancel()
	if open > 0 {
		err = s.expireDue(ctx)
	}
	err = errors.Join(err, s.lapseDue(ctx))
	if slots {
		err = errors.Join(err, s.dropSlots(ctx))
	}
	return err
}

// lockSweep takes or keeps the partition's sweep lock. It guards no credit, so it may be lost at any time.
func (e *Engine) lockSweep(ctx context.Context, keys Keys) (bool, error) {
	got, err := e.client().SetNX(ctx, keys.tag+"sweeper", e.name, sweepLock).Result()
	if err != nil || got {
		return got, err
	}
	holder, err := e.client().Get(ctx, keys.tag+"sweeper").Result()
	if err != nil || holder != e.name {
		return false, ignoreNil(err)
	}
	return true, e.client().PExpire(ctx, keys.tag+"sweeper", sweepLock).Err()
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
	for _, o := range due {
		switch {
		case o.err != nil:
			s.skip("hold", o.err)
		case o.code == CodeOK:
			s.metrics.expired.Inc()
		case o.code == CodeNotLoaded:
			s.load("hold", o)
		case o.code == CodeNotDue || o.code == CodeUnknown: // settled or extended since the scan
		default:
			s.skip("hold", fmt.Errorf("expire %s: %s: %s", o.id, o.code, o.body))
		}
	}
	return nil
}

// load brings the account of an operation into Redis, for the next sweep.
func (s *sweep) load(what string, o *op) {
	if err := s.loadAccount(s.loads, o.account, s.p.number, o.id); err != nil {
		s.skip(what, err)
		return
	}
	s.loaded++
}

// SweepNow books everything that is due now, whoever has the sweep locks: after a test clock was moved, so that what
// follows finds it done. Rounds go on while they bring accounts into Redis, until ctx ends.
func (e *Engine) SweepNow(ctx context.Context) error {
	for _, p := range e.partitions {
		if err := p.waitOpen(ctx); err != nil {
			return err
		}
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
	return errors.Join(s.expireDue(ctx), s.lapseDue(ctx), s.dropSlots(ctx))
}

// lapseDue books grants that have expired, oldest first. Those that stay in the list are stepped over.
func (s *sweep) lapseDue(ctx context.Context) error {
	key := s.layout.Keys(s.p.number).Lapses()
	nowMs := strconv.FormatInt(s.now().UnixMilli(), 10)
	for stay := 0; ; {
		members, err := s.client().ZRangeArgs(ctx, redis.ZRangeArgs{
			Key: key, Start: "-inf", Stop: nowMs, ByScore: true, Offset: int64(stay), Count: lapsesAtOnce,
		}).Result()
		if err != nil || len(members) == 0 {
			return err
		}
		left, err := s.lapse(members)
		if err != nil {
			return err
		}
		stay += left
	}
}

// lapse books one look's grants and returns how many may still be listed.
func (s *sweep) lapse(members []string) (left int, err error) {
	ops := make([]*op, 0, len(members))
	for _, m := range members {
		account, grant, _ := strings.Cut(m, "|")
		if len(grant) != len(ID{}) {
			left++
			s.skip("lapse", fmt.Errorf("lapses: member %q names no grant", m))
			continue
		}
		ops = append(ops, newOp(verbLapse, s.p.number, NewID(s.now()), account).uuid(ID([]byte(grant))))
	}
	if err := s.send(ops); err != nil {
		return left, err
	}
	for _, o := range ops {
		if o.err == nil && o.code == CodeOK {
			s.metrics.lapsed.Inc()
			continue
		}
		if o.err == nil && o.code == CodeGone {
			continue
		}
		left++
		switch {
		case o.err != nil:
			s.skip("lapse", o.err)
		case o.code == CodeNotLoaded:
			s.load("lapse", o)
		case o.code == CodeNotDue: // moved, or this host's clock is ahead of Redis'
		default:
			s.skip("lapse", fmt.Errorf("lapse in %q: %s: %s", o.account, o.code, o.body))
		}
	}
	return left, nil
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
		if o.head.code != CodeClock { // opening again does not set a clock right
			s.p.shut(o.epoch, o.head.code)
		}
		return fmt.Errorf("partition %d: %w: %s: %s", s.p.number, ErrUnavailable, o.head.code, o.body)
	}
	return nil
}
