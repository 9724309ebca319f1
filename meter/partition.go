package meter

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// PartitionState is what /readyz says about a partition.
type PartitionState struct {
	Partition uint16 `json:"partition"`
	State     string `json:"state"`            // "open", "fenced", or "full": settles open reservations, takes no new ones
	Reason    string `json:"reason,omitempty"` // what happened
	Advice
	// Since is when a fenced one was closed.
	Since time.Time `json:"since,omitzero"`
}

// partition is this gateway's view of one partition: the fence that each call carries, and whether it is open.
type partition struct {
	number uint16
	keys   Keys
	// sectionKeys are the partition's own keys in the order in which a call passes them; the last one only if it
	// may write it. They are strings, as go-redis finds a Cluster node by the first.
	sectionKeys [sectionKeysMax]any

	epoch   atomic.Uint64
	minPseq atomic.Uint64
	flushed atomic.Uint64
	lost    uint64      // minPseq when records were found lost; the opener's
	reopen  atomic.Bool // the opener must claim a new epoch even if Redis looks open

	mu     sync.Mutex
	isOpen bool
	opened chan struct{} // closed while open
	wake   chan struct{} // asks the opener to look; holds one
	reason string
	since  time.Time // when it was closed
	advice Advice

	holds holdsSeeker
}

func newPartition(number uint16, k Keys) *partition {
	p := &partition{
		number: number, keys: k,
		sectionKeys: [sectionKeysMax]any{k.Meta(), k.Open(), k.Ledger(), k.Slots()},
		opened:      make(chan struct{}), wake: make(chan struct{}, 1), reason: "not opened yet",
		since: time.Now(), advice: Advice{Do: doNothing},
		holds: newHoldsSeeker(),
	}
	p.wake <- struct{}{}
	return p
}

// ready reports whether waitOpen would not wait.
func (p *partition) ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isOpen
}

// waitOpen returns when the partition is open, or ErrUnavailable with the reason when ctx ends first.
func (p *partition) waitOpen(ctx context.Context) error {
	p.mu.Lock()
	isOpen, opened := p.isOpen, p.opened
	p.mu.Unlock()
	if isOpen {
		return nil
	}
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Errorf("meter: partition %d is fenced (%s): %w: %w: %w", p.number, p.reason, errClosed, ErrUnavailable, ErrNotSent)
	}
}

// shut closes the partition because a call under its present epoch was refused, and wakes the opener. A refusal of a
// call under an older epoch changes nothing: the partition was opened again since.
func (p *partition) shut(calledUnder uint64, code Code) {
	if calledUnder < p.epoch.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isOpen {
		p.isOpen, p.opened, p.since = false, make(chan struct{}), time.Now()
	}
	p.reason, p.advice = refusal(code), Advice{Do: doNothing + ", once it was compared with Postgres"}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// refusal is the reason that people read in /readyz.
func refusal(code Code) string {
	switch code {
	case CodeFenced:
		return "Redis restarted or failed over"
	case CodeEpoch:
		return "another gateway opened it"
	case CodeRegressed:
		return "Redis is behind what this gateway saw"
	case CodeClosed:
		return "Redis has no meta for it"
	case CodeTorn:
		return "a write failed half-way in Redis"
	default:
		return fmt.Sprintf("refused: %s", code)
	}
}

// open lets operations through under an epoch. minPseq starts at the head found.
func (p *partition) open(epoch, pseq uint64) {
	p.epoch.Store(epoch)
	p.minPseq.Store(pseq)
	p.flushed.Store(pseq) // unknown until the first reply: no backlog is better than refusing at once
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reason, p.advice = "", Advice{}
	if !p.isOpen {
		p.isOpen = true
		close(p.opened)
	}
}

// fenced keeps why the partition cannot be opened, and reports whether that is another reason than before.
func (p *partition) fenced(reason string, advice Advice) (another bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	another = p.reason != reason
	p.reason, p.advice = reason, advice
	return another
}

func (p *partition) state() PartitionState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isOpen {
		return PartitionState{Partition: p.number, State: "open"}
	}
	return PartitionState{
		Partition: p.number, State: "fenced", Reason: p.reason, Advice: p.advice,
		Since: p.since.UTC().Truncate(time.Millisecond),
	}
}

// saw raises minPseq: from now on a Redis that is behind this head is refused.
func (p *partition) saw(head sectionHead) {
	p.flushed.Store(head.flushed)
	for {
		old := p.minPseq.Load()
		if head.pseq <= old || head.epoch != p.epoch.Load() || p.minPseq.CompareAndSwap(old, head.pseq) {
			return
		}
	}
}

// backlog is how many ledger records of a partition wait for Postgres, as of the last reply.
func (e *Engine) backlog(n uint16) uint64 {
	if n >= e.layout.Partitions {
		return 0
	}
	p := e.partitions[n]
	flushed := p.flushed.Load()
	return max(p.minPseq.Load(), flushed) - flushed
}

func (p *partition) fence() fence {
	return fence{epoch: p.epoch.Load(), minPseq: p.minPseq.Load()}
}

// Ready reports every partition.
func (e *Engine) Ready() []PartitionState {
	out := make([]PartitionState, len(e.partitions))
	for i, p := range e.partitions {
		out[i] = p.state()
		if n := e.backlog(p.number); out[i].State == "open" && n > ledgerBacklogMax {
			out[i].State = "full"
			out[i].Reason = fmt.Sprintf("%d ledger records wait for Postgres, at most %d; nothing new is reserved", n, ledgerBacklogMax)
			out[i].Advice = Advice{Do: "start Postgres, or read in the log why the ledger is not flushed; nothing is lost meanwhile"}
		}
	}
	return out
}
