package meter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The sweeper books what time alone decides: leases that are over, grants that have expired, outcomes that may be
// forgotten. The scripts check each again, so a second sweeper would do no harm; the lock only saves work.
const (
	sweepEvery   = time.Second
	sweepLock    = 5 * time.Second // a dead sweeper is replaced after this; held 0 within lease + 5 s rests on it
	lapsesAtOnce = flightMax
	slotsEvery   = 30 // sweeps
)

func (e *Engine) sweepLoop(ctx context.Context, p *partition) {
	for n := 0; ; n++ {
		jitter := time.Duration(rand.Int64N(int64(sweepEvery / 4)))
		if pause(ctx, sweepEvery-jitter) != nil {
			return
		}
		if p.state().State != "open" {
			continue
		}
		if err := e.sweep(ctx, p, n%slotsEvery == 0); err != nil && ctx.Err() == nil {
			e.log.Warn().Err(err).Uint16("partition", p.number).Msg("sweep failed; the next one tries again")
		}
	}
}

// sweep does one round on a partition if this gateway has the lock.
func (e *Engine) sweep(ctx context.Context, p *partition, slots bool) error {
	keys := e.layout.Keys(p.number)
	open, err := e.client().HLen(ctx, keys.Open()).Result()
	if err != nil {
		return err
	}
	e.metrics.open.WithLabelValues(strconv.Itoa(int(p.number))).Set(float64(open))
	if mine, err := e.lockSweep(ctx, keys); err != nil || !mine {
		return err
	}
	if open > 0 {
		if err := e.expireDue(ctx, p); err != nil {
			return err
		}
	}
	if err := e.lapseDue(ctx, p); err != nil || !slots {
		return err
	}
	return e.dropSlots(ctx, p)
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
func (e *Engine) expireDue(ctx context.Context, p *partition) error {
	tick := newOp(verbTick, p.number, NewID(e.now()), "")
	if err := e.sweepOps(p, []*op{tick}); err != nil {
		return err
	}
	up := tick.head.nowMs - tick.head.downMs
	var due []*op
	err := e.eachOpen(ctx, p.number, func(r Reservation) error {
		if r.DeadlineMs > up {
			return nil
		}
		due = append(due, settleOp(verbExpire, r.ID, r.Account))
		if len(due) < flightMax {
			return nil
		}
		batch := due
		due = nil
		return e.expire(ctx, p, batch)
	})
	if err != nil {
		return err
	}
	return e.expire(ctx, p, due)
}

func (e *Engine) expire(ctx context.Context, p *partition, due []*op) error {
	if err := e.sweepOps(p, due); err != nil {
		return err
	}
	for _, o := range due {
		switch o.code {
		case CodeOK:
			e.metrics.expired.Inc()
		case CodeNotLoaded:
			if err := e.loadAccount(ctx, o.account, p.number, o.id); err != nil {
				return err
			}
		case CodeNotDue, CodeUnknown: // settled or extended since the scan
		default:
			return fmt.Errorf("expire %s: %s: %s", o.id, o.code, o.body)
		}
	}
	return nil
}

// lapseDue books grants that have expired, oldest first.
func (e *Engine) lapseDue(ctx context.Context, p *partition) error {
	key := e.layout.Keys(p.number).Lapses()
	nowMs := strconv.FormatInt(e.now().UnixMilli(), 10)
	for {
		members, err := e.client().ZRangeArgs(ctx, redis.ZRangeArgs{
			Key: key, Start: "-inf", Stop: nowMs, ByScore: true, Count: lapsesAtOnce,
		}).Result()
		if err != nil || len(members) == 0 {
			return err
		}
		ops := make([]*op, 0, len(members))
		for _, m := range members {
			account, grant, _ := strings.Cut(m, "|")
			if len(grant) != len(ID{}) {
				return fmt.Errorf("lapses: member %q names no grant", m)
			}
			ops = append(ops, newOp(verbLapse, p.number, NewID(e.now()), account).uuid(ID([]byte(grant))))
		}
		if err := e.sweepOps(p, ops); err != nil {
			return err
		}
		progress := false
		for _, o := range ops {
			switch o.code {
			case CodeOK:
				e.metrics.lapsed.Inc()
				progress = true
			case CodeGone:
				progress = true
			case CodeNotLoaded:
				if err := e.loadAccount(ctx, o.account, p.number, o.id); err != nil {
					return err
				}
			case CodeNotDue: // moved, or this host's clock is ahead of Redis'
			default:
				return fmt.Errorf("lapse in %q: %s: %s", o.account, o.code, o.body)
			}
		}
		if !progress {
			return nil
		}
	}
}

// dropSlots forgets outcome slots that are old enough; the script decides.
func (e *Engine) dropSlots(ctx context.Context, p *partition) error {
	keys := e.layout.Keys(p.number)
	slots, err := e.client().HKeys(ctx, keys.Slots()).Result()
	if err != nil {
		return err
	}
	var ops []*op
	for _, slot := range slots {
		if o := e.dropOp(p.number, keys, slot); o != nil {
			ops = append(ops, o)
		}
	}
	for len(ops) > 0 {
		n := min(len(ops), flightMax)
		if err := e.sweepOps(p, ops[:n]); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

func (e *Engine) dropOp(partition uint16, keys Keys, slot string) *op {
	what, width := byte(1), int64(doneSlotMs)
	number, ok := strings.CutPrefix(slot, keys.tag+"done:")
	if !ok {
		what, width = 2, keySlotMs
		number, ok = strings.CutPrefix(slot, keys.tag+"keys:")
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil {
		return nil
	}
	o := newOp(verbDrop, partition, NewID(e.now()), "").u8(what).i48((n + 1) * width)
	o.slotKey = slot
	return o
}

// sweepOps sends operations of a sweep. A partition that is not open ends the sweep, and is opened.
func (e *Engine) sweepOps(p *partition, ops []*op) error {
	if len(ops) == 0 {
		return nil
	}
	if err := e.batch.do(ops...); err != nil {
		return err
	}
	for _, o := range ops {
		if o.err != nil {
			return o.err
		}
		if o.head.code != CodeOK {
			p.shut(o.epoch, o.head.code)
			return fmt.Errorf("partition %d: %w: %s", p.number, ErrUnavailable, o.head.code)
		}
	}
	return nil
}
