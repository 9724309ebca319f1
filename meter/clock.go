package meter

import (
	"sync/atomic"
	"time"
)

// Clock is the time that decides on the Go side: what is due, what has begun, when an id was made. In production it is
// the system's clock. Under a test clock it is that clock moved by an offset, which every call to Redis carries, so
// that both sides move together. Waiting, deadlines and measuring are not its business: they use package time.
//
// The zero value is the system's clock. A Clock may be used concurrently and is not copied after first use.
type Clock struct{ offset atomic.Int64 }

// Now is the current time.
func (c *Clock) Now() time.Time { return time.Now().Add(c.Offset()) }

// Offset is how far the clock is ahead of the system's, 0 in production.
func (c *Clock) Offset() time.Duration { return time.Duration(c.offset.Load()) }

// Read is the current time and the offset that is in it.
func (c *Clock) Read() (now time.Time, offset time.Duration) {
	offset = c.Offset()
	return time.Now().Add(offset), offset
}

// Set moves the clock. Only a test does this.
func (c *Clock) Set(offset time.Duration) { c.offset.Store(int64(offset)) }

// Advance moves the clock to an offset unless it is further ahead: time does not go back.
func (c *Clock) Advance(offset time.Duration) {
	for {
		now := c.offset.Load()
		if now >= int64(offset) || c.offset.CompareAndSwap(now, int64(offset)) {
			return
		}
	}
}
