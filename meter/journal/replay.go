package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"creditgate/meter"
)

// Settler repeats settlements; *meter.Engine is one. It may be called concurrently.
type Settler interface {
	Commit(ctx context.Context, s meter.Settle) (meter.Decision, error)
	Release(ctx context.Context, s meter.Settle) (meter.Decision, error)
}

// How entries are retried. While a partition is away it is asked with one entry at a time, after a pause that
// doubles from pauseMin to pauseMax: all partitions of the largest layout together then cost 256 calls a second.
// Once it answers, width entries are under way at a time, which is about one flight of the engine.
const (
	attemptMax = 2 * time.Second // one call
	pauseMin   = 20 * time.Millisecond
	pauseMax   = time.Second
	width      = 64
)

// outcome is how an entry ended.
type outcome string

const (
	settled  outcome = "settled"  // the verb is done, now or by an earlier attempt
	conflict outcome = "conflict" // the reservation has another outcome, which stands
	refused  outcome = "refused"  // there is no such account or reservation, so nothing to settle
	open     outcome = ""         // not known yet
)

// outcomeOf tells whether an answer is final. OK and Conflict are, and so are the errors that say that there is
// nothing to settle. All else is tried again: an unavailable, fenced or closed partition (ErrUnavailable), an
// account that could not be loaded, and codes that a settlement should never get; to drop a charge for a reason
// nobody thought of would lose it silently, and an entry that stays is seen in journal_pending and in the log.
func outcomeOf(d meter.Decision, err error) outcome {
	switch {
	case errors.Is(err, meter.ErrNoAccount), errors.Is(err, meter.ErrNoReservation):
		return refused
	case err != nil:
		return open
	case d.Code == meter.CodeOK:
		return settled
	case d.Code == meter.CodeConflict:
		return conflict
	}
	return open
}

// Replayer repeats a journal's entries until each has its final outcome.
type Replayer struct {
	journal *Journal
	settler Settler
	pause   func(failures int) time.Duration
}

// NewReplayer makes a replayer; Run runs it.
func NewReplayer(j *Journal, s Settler) *Replayer {
	return &Replayer{journal: j, settler: s, pause: pauseAfter}
}

// pauseAfter doubles with each failure and is spread by half, so that gateways that lost the same Redis do not
// return to it together.
func pauseAfter(failures int) time.Duration {
	d := pauseMax
	if failures < 7 { // 20 ms << 6 > pauseMax
		d = min(pauseMin<<(failures-1), pauseMax)
	}
	return d/2 + rand.N(d/2)
}

// Run repeats what is in the journal, and what is appended later, until ctx is done. Each partition with pending
// entries has a goroutine of its own, so that one that is fenced does not hold up the others.
func (r *Replayer) Run(ctx context.Context) {
	var lanes sync.WaitGroup
	defer lanes.Wait()
	running := map[uint16]bool{}
	ended := make(chan uint16)
	for {
		for _, e := range r.journal.Pending() {
			p := e.Settle.ID.Partition
			if running[p] {
				continue
			}
			running[p] = true
			lanes.Go(func() {
				r.drain(ctx, p)
				select {
				case ended <- p:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-r.journal.wake:
		case p := <-ended: // looked at again above: an entry may have come after its last look
			delete(running, p)
		case <-ctx.Done():
			return
		}
	}
}

// drain repeats a partition's entries until none is left.
func (r *Replayer) drain(ctx context.Context, partition uint16) {
	failures := 0
	for ctx.Err() == nil {
		entries := r.journal.pendingIf(func(e *Entry) bool { return e.Settle.ID.Partition == partition })
		if len(entries) == 0 {
			return
		}
		if r.pass(ctx, entries, failures) {
			failures = 0
			continue
		}
		failures++
		pause := time.NewTimer(r.pause(failures))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// pass tries each entry once, and stops where a whole group of them gets no outcome: then the partition is away.
// After failures it begins with one entry alone, each time another one, so that neither is a dead partition
// flooded nor do entries wait for ever behind one that only its own account holds up. It reports whether all got
// their final outcome.
func (r *Replayer) pass(ctx context.Context, entries []Entry, failures int) (all bool) {
	first := failures % len(entries)
	entries = slices.Concat(entries[first:], entries[:first])
	n := width
	if failures > 0 {
		n = 1
	}
	for all = true; len(entries) > 0 && ctx.Err() == nil; n = width {
		n = min(n, len(entries))
		final := r.try(ctx, entries[:n])
		if final == 0 {
			return false
		}
		all = all && final == n
		entries = entries[n:]
	}
	return all
}

// try repeats some entries at once, which the engine puts into one flight, and returns how many got their final
// outcome.
func (r *Replayer) try(ctx context.Context, entries []Entry) int {
	results := make([]outcome, len(entries))
	var calls sync.WaitGroup
	for i, e := range entries {
		calls.Go(func() { results[i] = r.attempt(ctx, e) })
	}
	calls.Wait()
	final := make([]uint64, 0, len(entries))
	for i, o := range results {
		if o != open {
			final = append(final, entries[i].Seq)
		}
	}
	if err := r.journal.Ack(final...); err != nil && !errors.Is(err, ErrClosed) {
		r.journal.log.Error().Err(err).Msg("journal: could not mark settlements; they are repeated after a restart")
	}
	return len(final)
}

func (r *Replayer) attempt(ctx context.Context, e Entry) outcome {
	ctx, cancel := context.WithTimeout(ctx, attemptMax)
	defer cancel()
	call := r.settler.Commit
	if e.Verb == Release {
		call = r.settler.Release
	}
	d, err := call(ctx, e.Settle)
	o := outcomeOf(d, err)
	r.log(e, d, err, o)
	if o != open {
		r.journal.metrics.replayed.WithLabelValues(string(o)).Inc()
	}
	return o
}

func (r *Replayer) log(e Entry, d meter.Decision, err error, o outcome) {
	log := r.journal.log.With().Stringer("verb", e.Verb).Stringer("reservation", e.Settle.ID).
		Stringer("amount", e.Settle.Amount).Logger()
	switch {
	case o == settled:
		log.Info().Stringer("state", d.Reservation.State).Msg("journal: settled")
	case o == conflict:
		log.Warn().Stringer("state", d.Reservation.State).Msg("journal: another outcome stands; nothing was changed")
	case o == refused:
		log.Error().Err(err).Msg("journal: there is nothing to settle; the settlement is dropped")
	case err != nil:
		log.Debug().Err(err).Msg("journal: not settled yet; will be repeated")
	default:
		log.Error().Uint8("code", uint8(d.Code)).Msg("journal: unexpected answer; will be repeated")
	}
}
