package policy

import (
	"time"

	"creditgate/meter"
)

// Override is what was negotiated with one account for a stretch of time. Where several of one kind and target are in
// force, the last one in the list counts.
type Override struct {
	Kind    OverrideKind
	Target  string // a bucket, or an operation with UnitCredits
	Credits meter.Credits
	From    time.Time
	Until   time.Time // zero: until further notice
}

// OverrideKind tells what an override replaces.
type OverrideKind uint8

// The kinds of overrides.
const (
	Contingents OverrideKind = iota + 1 // what a plan renews in a bucket, or nothing if it renews nothing there
	FairUse                             // the cap of a bucket that the plan calls unlimited
	UnitCredits                         // the price of an operation's unit
)

func (o Override) inForce(t time.Time) bool {
	return !t.Before(o.From) && (o.Until.IsZero() || t.Before(o.Until))
}

// Overridden is what the overrides in force at t say about a target; ok is false if they say nothing.
func Overridden(all []Override, kind OverrideKind, target string, t time.Time) (c meter.Credits, ok bool) {
	for _, o := range all {
		if o.Kind == kind && o.Target == target && o.inForce(t) {
			c, ok = o.Credits, true
		}
	}
	return c, ok
}
