package load

import (
	"runtime"
	"syscall"
	"time"
)

// sleepMin is less than what the kernel rounds a sleep up by.
const sleepMin = 60 * time.Microsecond

// pacer waits on a thread of its own. The runtime's timers wake an idle process up to a millisecond late, which would
// be most of what is measured here.
type pacer struct{}

func newPacer() pacer {
	runtime.LockOSThread()
	return pacer{}
}

func (pacer) close() { runtime.UnlockOSThread() }

// wait returns d later, or at most some 60 µs sooner.
func (pacer) wait(d time.Duration) {
	if d <= sleepMin {
		return
	}
	ts := syscall.NsecToTimespec(int64(d - sleepMin))
	_ = syscall.Nanosleep(&ts, nil) // a signal cuts it short: one request is early
}
