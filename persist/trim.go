package persist

import (
	"time"

	"creditgate/meter"
)

// trimMarks remember when positions were committed, so that Redis keeps what a failover of Postgres might lose. They
// are kept in memory only: after a restart trimming waits for one lag, which costs Redis memory and nothing else.
type trimMarks struct {
	lag   time.Duration
	marks []trimMark // oldest first, at least lag/trimMarksMax apart
}

type trimMark struct {
	at       time.Time
	position meter.Position
}

// trimMarksMax bounds the marks; trimming is late by at most lag/trimMarksMax.
const trimMarksMax = 64

// trimEvery is how often an idle ledger is trimmed at most.
const trimEvery = time.Second

// add notes that everything up to position is committed at this time.
func (t *trimMarks) add(at time.Time, position meter.Position) {
	if n := len(t.marks); n > 0 && at.Sub(t.marks[n-1].at) < t.lag/trimMarksMax {
		return
	}
	t.marks = append(t.marks, trimMark{at, position})
}

// wait is how long the flusher may wait for records, at most so long: no longer than until something may be trimmed,
// since an idle ledger keeps Redis' memory too, and not shorter than trimEvery.
func (t *trimMarks) wait(now time.Time, most time.Duration) time.Duration {
	if len(t.marks) == 0 {
		return most
	}
	return min(most, max(trimEvery, t.lag-now.Sub(t.marks[0].at)))
}

// due returns the newest position that was committed at least lag ago, once; the zero position if there is none.
func (t *trimMarks) due(now time.Time) (position meter.Position) {
	n := 0
	for n < len(t.marks) && now.Sub(t.marks[n].at) >= t.lag {
		position = t.marks[n].position
		n++
	}
	t.marks = t.marks[n:]
	return position
}
