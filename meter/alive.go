package meter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
)

// A gateway that runs says so in Redis every second, so that the others can tell a reservation that may be settled at
// any moment from one that only the end of its lease frees. Reservation ids end with two bytes that are the same for all
// of one gateway. Gateways share them by chance, one pair in 65,536, and then one is taken to live while the other does.
const (
	aliveKey = "creditgate:gateway:" // belongs to no partition
	markSize = 2
)

// mark is what the ids of one gateway end with.
type mark [markSize]byte

func newMark() (m mark) {
	_, _ = rand.Read(m[:])
	return m
}

func markOf(id ID) mark { return mark(id[len(id)-markSize:]) }

func (m mark) putInto(id *ID) { copy(id[len(id)-markSize:], m[:]) }

func (m mark) key() string { return aliveKey + hex.EncodeToString(m[:]) }

// aliveLoop keeps the gateway's key in Redis until ctx ends. A key that is not kept is gone after sweepLock.
func (e *Engine) aliveLoop(ctx context.Context) {
	for {
		if _, err := e.lockSweep(ctx, e.mark.key()); err != nil && ctx.Err() == nil {
			e.log.Debug().Err(err).Msg("cannot say in Redis that this gateway runs; it is tried again")
		}
		if sweepPause(ctx) != nil {
			return
		}
	}
}

// isGone reports whether the gateway that made a reservation has stopped. A Redis that does not answer says nothing.
func (e *Engine) isGone(ctx context.Context, id ID) bool {
	m := markOf(id)
	if m == e.mark {
		return false
	}
	n, err := e.client().Exists(ctx, m.key()).Result()
	return err == nil && n == 0
}
