package meter

import (
	"fmt"
	"sync"
)

// Bounds of the batcher. queueMax is what may wait while Redis does not answer: at 100,000 a gateway holds some
// 50 MB of waiting operations, and more would only wait longer.
const (
	flightMax = 512
	queueMax  = 100_000
)

// batcher coalesces operations: whatever queued while the previous flight was out goes with the next one. Nothing
// waits on a timer, and an idle batcher sends at once on the caller's own goroutine. The caller whose ticket is
// first when a flight returns flies the next one.
type batcher struct {
	fly func([]*op) // sends the operations and fills in their replies

	mu     sync.Mutex
	queue  []*ticket
	spare  sync.Pool // of *ticket
	spares sync.Pool // of *batch
	queued int       // operations in queue
	flying bool
}

// ticket is one caller's operations; they share a flight.
type ticket struct {
	ops  []*op
	turn chan bool // true: fly the next flight; false: your replies are there
}

// batch is the tickets of one flight and their operations.
type batch struct {
	tickets []*ticket
	ops     []*op
}

// do sends the operations and returns when they have replies. It refuses more than flightMax at a time, and more
// than queueMax waiting.
func (b *batcher) do(ops ...*op) error {
	if len(ops) > flightMax {
		return fmt.Errorf("meter: %d operations in one flight, at most %d: %w", len(ops), flightMax, ErrNotSent)
	}
	t, _ := b.spare.Get().(*ticket)
	if t == nil {
		t = &ticket{turn: make(chan bool, 1)}
	}
	t.ops = append(t.ops[:0], ops...)
	b.mu.Lock()
	if b.queued+len(ops) > queueMax {
		b.mu.Unlock()
		b.spare.Put(t)
		return fmt.Errorf("meter: %d operations wait for Redis: %w: %w", queueMax, ErrUnavailable, ErrNotSent)
	}
	b.queue = append(b.queue, t)
	b.queued += len(ops)
	if b.flying {
		b.mu.Unlock()
		if myTurn := <-t.turn; !myTurn {
			b.spare.Put(t) // nobody else has it any more, and its turn is empty again
			return nil
		}
		b.mu.Lock()
	}
	b.flying = true
	f := b.take()
	b.mu.Unlock()

	b.lead(t, f) // a panic in it keeps both from being used again
	clear(f.tickets)
	clear(f.ops)
	b.spares.Put(f)
	b.spare.Put(t)
	return nil
}

// lead flies a batch. What follows the flight is deferred, so that a panic in it, which the caller may recover,
// leaves nobody waiting: the others are told that their outcome is unknown.
func (b *batcher) lead(t *ticket, f *batch) {
	landed := false
	defer func() {
		if !landed {
			for _, o := range f.ops {
				o.maybe = true
				o.err = fmt.Errorf("meter: %w: the flight panicked", ErrUnavailable)
			}
		}
		b.passOn()
		for _, other := range f.tickets {
			if other != t {
				other.turn <- false
			}
		}
	}()
	b.fly(f.ops)
	landed = true
}

// take removes whole tickets from the queue, at most flightMax operations. The flyer's own ticket is the first.
func (b *batcher) take() *batch {
	f, _ := b.spares.Get().(*batch)
	if f == nil {
		f = &batch{}
	}
	f.tickets, f.ops = f.tickets[:0], f.ops[:0]
	for _, t := range b.queue {
		if len(f.ops)+len(t.ops) > flightMax {
			break
		}
		f.tickets, f.ops = append(f.tickets, t), append(f.ops, t.ops...)
	}
	rest := copy(b.queue, b.queue[len(f.tickets):])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	b.queued -= len(f.ops)
	return f
}

// passOn gives the next flight to whoever waits first, before this flight's replies are handed out.
func (b *batcher) passOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.flying = false
		return
	}
	b.queue[0].turn <- true
}
