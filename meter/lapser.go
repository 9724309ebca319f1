package meter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The lapser books what grants have left when they end. Nothing draws on them from that moment, booked or not, so a
// late lapse is late in the books only. Postgres says what is due, and the scripts check each again: Redis, which has an
// account for each of a million customers, keeps no index of ends beside them.
//
// One query finds what is due in every partition, so one gateway asks for all of them. A grant stays due in Postgres
// until the flusher has brought its lapse there, and one that is held until its reservation ends. Neither is sent again
// every second: a round goes on behind the place where the one before it ended, and only now and then begins anew.
const (
	lapserLock     = "creditgate:lapser" // belongs to no partition
	lapsesRead     = 1000                // from Postgres at a time
	lapsesAtOnce   = 64                  // when a month ends for everybody, requests wait behind no longer call than this
	lapsesAgainMax = 32                  // rounds, after which one begins anew; what became due behind it waits so long
	lapsesWaitMax  = 10 * time.Second    // for an answer from Postgres, and in SweepNow for it to have what Redis has
)

// lapser is what a gateway remembers from round to round while it is the one.
type lapser struct {
	*Engine

	after Lapse // where the last round ended
	wait  int   // rounds until one begins anew
	again int   // … from one that begins anew to the next
	// unflushed has the newest lapse of each partition until Postgres has it.
	unflushed map[uint16]Position
}

func newLapser(e *Engine) *lapser { return &lapser{Engine: e, unflushed: map[uint16]Position{}} }

func (e *Engine) lapseLoop(ctx context.Context) {
	l, skipped := newLapser(e), 0
	for sweepPause(ctx) == nil {
		if !e.anyOpen() { // then whoever can reach some is to have the lock
			l = newLapser(e)
			continue
		}
		mine, err := e.lockSweep(ctx, lapserLock)
		if err == nil && !mine {
			l = newLapser(e) // whoever takes over begins anew
			continue
		}
		var s *lapseRound
		if err == nil {
			s, err = l.round(ctx)
			if s.skipped > 0 && s.skipped != skipped {
				e.log.Error().Err(s.first).Int("skipped", s.skipped).
					Msg("passed over grants that ended and cannot be booked; the error is the first one's")
			}
			skipped = s.skipped
		}
		if err != nil && ctx.Err() == nil {
			e.outages.Log(e.log, unreached(err)).
				Msg("cannot book what grants had left when they ended; nothing draws on it, and it is tried again")
		}
		if err != nil || s.missed > 0 {
			_ = pause(ctx, sweepLock) // until the lock is free: another gateway may reach what this one does not
		}
	}
}

// anyOpen reports whether this gateway has a partition open.
func (e *Engine) anyOpen() bool { return slices.ContainsFunc(e.partitions, (*partition).ready) }

// round books what became due since the last one, or everything that is due.
func (l *lapser) round(ctx context.Context) (*lapseRound, error) {
	s := newLapseRound(l.Engine, l.after)
	anew := l.wait == 0
	if anew {
		s.after = Lapse{}
		l.forgetFlushed(ctx)
		s.seen, s.unflushed = l.after, l.unflushed
	}
	err := s.run(ctx, func() (bool, error) { return l.lockSweep(ctx, lapserLock) })
	if s.after.behind(l.after) || err != nil {
		l.after = s.after // else nothing is due any more from there on, and what ended before need not be gone through
	}
	maps.Copy(l.unflushed, s.booked)
	switch {
	case !anew:
		l.wait--
		return s, err
	case len(s.booked) > 0:
		l.again = 1
	default: // nothing is due, or all of it is held or on its way to Postgres
		l.again = max(1, min(2*l.again, lapsesAgainMax))
	}
	l.wait = l.again - 1
	return s, err
}

// forgetFlushed drops the places that Postgres has reached, and those that Redis has lost. Postgres is asked: Redis is
// told seldom.
func (l *lapser) forgetFlushed(ctx context.Context) {
	for p, at := range l.unflushed {
		m, err := l.meta(ctx, p)
		if err == nil && m.Epoch != at.Epoch {
			delete(l.unflushed, p)
			continue
		}
		if cursor, err := l.book.Cursor(ctx, p); err == nil && cursor.Pseq >= at.Pseq {
			delete(l.unflushed, p)
		}
	}
}

// lapseRound is one walk over what is due.
type lapseRound struct {
	sweep

	after     Lapse
	seen      Lapse               // up to here, what is of unflushed partitions was sent before
	unflushed map[uint16]Position // is not written
	shut      map[uint16]bool     // partitions that take nothing in this round
	missed    int                 // what was due in partitions that are not open here
	found     int
	booked    map[uint16]Position // the newest lapse of each partition
}

func newLapseRound(e *Engine, after Lapse) *lapseRound {
	return &lapseRound{sweep: sweep{Engine: e}, after: after, shut: map[uint16]bool{}, booked: map[uint16]Position{}}
}

// run ends when nothing more is due, or when keep says that somebody else does this now.
func (s *lapseRound) run(ctx context.Context, keep func() (bool, error)) error {
	until := s.now()
	for {
		due, err := s.due(ctx, until)
		if err != nil {
			return err
		}
		s.found += len(due)
		if err := s.page(ctx, due); err != nil {
			return err
		}
		if len(due) < lapsesRead {
			return nil
		}
		if mine, err := keep(); err != nil || !mine {
			return err
		}
	}
}

func (s *lapseRound) due(ctx context.Context, until time.Time) ([]Lapse, error) {
	ctx, cancel := context.WithTimeout(ctx, lapsesWaitMax)
	defer cancel()
	due, err := s.book.DueLapses(ctx, s.after, until, lapsesRead)
	if err != nil {
		return nil, fmt.Errorf("meter: %w", err)
	}
	return due, nil
}

func (s *lapseRound) page(ctx context.Context, due []Lapse) error {
	var cancel context.CancelFunc
	s.loads, cancel = context.WithTimeout(ctx, sweepLoads)
	defer cancel()
	for part := range slices.Chunk(due, lapsesAtOnce) {
		if err := s.lapse(part); err != nil {
			return err
		}
		s.after = part[len(part)-1]
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// lapse sends what can be sent now. An error means that no partition can be reached; what one of them does not take is
// found again by a round that begins anew.
func (s *lapseRound) lapse(part []Lapse) error {
	ops := make([]*op, 0, len(part))
	for _, d := range part {
		p := s.layout.PartitionOf(d.Account)
		if !s.partitions[p].ready() {
			s.missed++
			continue
		}
		if _, waits := s.unflushed[p]; s.shut[p] || waits && !d.behind(s.seen) {
			continue
		}
		ops = append(ops, newOp(verbLapse, p, NewID(s.now()), d.Account).uuid(d.Grant))
	}
	for range 2 { // the second time those whose accounts were not loaded
		if len(ops) == 0 {
			return nil
		}
		if err := s.batch.do(ops...); err != nil {
			return err
		}
		for _, o := range ops {
			s.take(o)
		}
		ops = s.load("lapse", slices.DeleteFunc(ops, func(o *op) bool { return o.err != nil || o.code != CodeNotLoaded }))
	}
	if len(s.shut) == len(s.partitions) && s.first != nil {
		return s.first
	}
	return nil
}

// take notes what became of one.
func (s *lapseRound) take(o *op) {
	switch {
	case errors.Is(o.err, ErrUnavailable), o.err == nil && o.head.code != CodeOK:
		s.skip("lapse", s.refused(o))
		s.shut[o.partition] = true
	case o.err != nil:
		s.skip("lapse", o.err)
	case o.code == CodeOK:
		s.metrics.lapsed.Inc()
		s.booked[o.partition] = Position{Epoch: o.head.epoch, Pseq: o.head.pseq}
	case o.code == CodeNotLoaded, o.code == CodeGone, o.code == CodeNotDue:
		// Gone: held, or not flushed yet. Not due: moved, and that is not flushed yet, or Redis' clock is behind this host's.
	default:
		s.skip("lapse", fmt.Errorf("lapse in %q: %s: %s", o.account, o.code, o.body))
	}
}

// lapseNow books everything that is due now, once Postgres knows all that Redis has.
func (e *Engine) lapseNow(ctx context.Context) error {
	for _, p := range e.partitions {
		if err := e.awaitFlushed(ctx, p.number); err != nil {
			return err
		}
	}
	s := newLapseRound(e, Lapse{})
	err := s.run(ctx, func() (bool, error) { return true, nil })
	if s.missed > 0 {
		err = errors.Join(err, fmt.Errorf("%d grants have ended in partitions that are not open: %w", s.missed, ErrUnavailable))
	}
	return errors.Join(err, s.first)
}

func (e *Engine) awaitFlushed(ctx context.Context, partition uint16) error {
	ctx, cancel := context.WithTimeout(ctx, lapsesWaitMax)
	defer cancel()
	head, err := e.meta(ctx, partition)
	if err != nil {
		return err
	}
	for {
		at, err := e.book.Cursor(ctx, partition)
		if err != nil || at.Pseq >= head.Pseq {
			return err
		}
		if pause(ctx, cursorPoll) != nil {
			return fmt.Errorf("the flusher of partition %d is at record %d of %d: %w", partition, at.Pseq, head.Pseq, ErrUnavailable)
		}
	}
}
