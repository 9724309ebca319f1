package policy

import "time"

// History is what was decided about one account's subscription, oldest first. Each term holds from its At until the
// next one's; the past of a history never changes, it only grows and its future may be replaced.
type History []Term

// Term is what a subscription is from a moment on.
type Term struct {
	At     time.Time
	Plan   string // "": no subscription
	Slots  uint32
	Yearly bool      // paid by the year; contingents are renewed every month all the same
	Anchor time.Time // what cycles are counted from where the policy has no day of month
}

// At is the term in force at t; ok is false before the first and while there is no subscription.
func (h History) At(t time.Time) (term Term, ok bool) {
	for _, next := range h {
		if next.At.After(t) {
			break
		}
		term = next
	}
	return term, term.Plan != ""
}
