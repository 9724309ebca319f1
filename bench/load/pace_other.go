//go:build !linux

package load

import "time"

type pacer struct{}

func newPacer() pacer { return pacer{} }

func (pacer) close() {}

// wait returns d later, as exactly as the runtime's timers are.
func (pacer) wait(d time.Duration) { <-time.After(d) }
