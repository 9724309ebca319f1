package policy

import (
	"fmt"
	"os"
	"strings"
	"time"

	"creditgate/meter"
)

// A scenario is a list of dated steps, played against a policy on real servers by `creditgate policy simulate`:
//
//	- at: 2026-03-20T09:00
//	  subscribe: {account: agency, plan: professional_plus, slots: 5}
//	- request: {account: agency, operation: apply, n: 3}
//	- advance: 3d
//	- expect: {account: agency, available: 97, buckets: {promo: 47, monthly: 50}}
//
// Times are local in the policy's zone, to the second, and never go back. A step has at most one of at and advance,
// and at most one action. An account that is named for the first time is made. Every change and every request may
// say what answer it expects, such as expect: 402 insufficient-credits; without that it must succeed.
//
//	account     a name
//	subscribe   account, plan, slots, period (monthly, yearly), starts_at, anchor_at
//	cancel      account, at (period_end, now)
//	purchase    account, pack, quantity, ref, net_minor, currency, purchased_at, paid_at
//	pay         ref (of a purchase), status (paid, overdue), at
//	refund      account, purchase (its ref), credits, reason (refund, chargeback, error), ref
//	reverse     account, ref (of the refund): a dispute is won
//	override    account, kind (contingent, fair_use, unit_credits), target, credits, from, until, ref
//	grant       account, bucket, credits, expires_at, ref
//	request     account, operation or method and path, n, body, times, key, answer, charged
//	expect      account, available, held, debt, buckets, plan, next_reset, next_reset_credits, fair_use_left
//
// n: 3 puts "n": 3 and three photos into the request's body: what the operations of the examples count. Other shapes
// are written out in body. answer says what the backend does: ok, fail, timeout, 2 of 3 (so many items delivered, in
// the shapes of the examples), or {status, body} written out. purchased_at, paid_at and the at of pay say when that was,
// if it was before the step. A purchase or refund that a step names stands above it, unless the step expects an answer.

// Bounds of a scenario.
const (
	stepsMax       = 2_000
	timesMax       = 10_000 // repetitions of one request
	scenarioLayout = "2006-01-02T15:04:05"
)

// Scenario is a story to be played against one policy.
type Scenario struct {
	File  string
	Start time.Time // of the first step
	Steps []Step
}

// Step is one thing that happens.
type Step struct {
	Line    int
	At      time.Time // zero: when the step before has happened, and Advance later
	Advance Pause
	Act     Act // nil: time passes
	Want    Outcome
}

// Pause is a stretch of time: a span of the calendar, then a duration.
type Pause struct {
	Span     Span
	Duration time.Duration
	text     string
}

// After is the moment a pause after t.
func (p Pause) After(t time.Time) time.Time {
	return t.AddDate(p.Span.Years, p.Span.Months, p.Span.Days).Add(p.Duration)
}

// String is the pause as the scenario has it.
func (p Pause) String() string { return p.text }

// Outcome is the answer that a step expects. Status 0: success.
type Outcome struct {
	Status int
	Code   string // "": any
}

// Act is what happens in a step: one of the types below.
type Act interface{ who() string }

// The acts.
type (
	// MakeAccount makes an account.
	MakeAccount struct{ Account string }
	// Subscribe starts or changes a subscription.
	Subscribe struct {
		Account, Plan      string
		Slots              uint32
		Yearly             bool
		StartsAt, AnchorAt time.Time
	}
	// Cancel ends a subscription.
	Cancel struct {
		Account string
		Now     bool
	}
	// Buy buys a pack.
	Buy struct {
		Account, Pack, Ref string
		Quantity           uint32
		NetMinor           int64 // -1: the list price
		Currency           string
		BoughtAt, PaidAt   time.Time // zero: now, and not yet
	}
	// Pay reports what became of the invoice of the purchase Ref.
	Pay struct {
		Ref, Report string
		Overdue     bool
		At          time.Time // zero: now
	}
	// Refund takes back what was bought.
	Refund struct {
		Account, Purchase, Ref, Reason string
		Credits                        meter.Credits // 0: all
	}
	// Reverse undoes a refund.
	Reverse struct{ Account, Ref string }
	// OverrideTerms is a negotiated term.
	OverrideTerms struct {
		Account, Ref, Kind, Target string
		Credits                    meter.Credits
		From, Until                time.Time
	}
	// GiveCredit is a plain grant.
	GiveCredit struct {
		Account, Bucket, Ref string
		Credits              meter.Credits
		ExpiresAt            time.Time
	}
	// Ask is one request, or the same one several times.
	Ask struct {
		Account, Method, Path, Name string
		Body                        []byte // JSON
		N                           uint32 // items in it, 0 if none are said
		Written                     string // what is written out of the body, as JSON; "" for none
		Times                       uint32
		Key                         string // Idempotency-Key
		Answer                      Answer
		Charged                     *meter.Credits // of each; nil: not looked at
	}
	// Look compares an account's balance.
	Look struct {
		Account          string
		Available        *meter.Credits
		Unlimited        bool // available: unlimited
		Held, Debt       *meter.Credits
		Buckets          []BucketLook
		Plan             *string    // "": none
		NextReset        *time.Time // zero: none
		NextResetCredits *meter.Credits
		FairUseLeft      *meter.Credits
	}
)

// BucketLook is what a bucket must have.
type BucketLook struct {
	Bucket    string
	Available meter.Credits
	Unlimited bool
}

// Answer is what the backend does with a request.
type Answer struct {
	Kind      AnswerKind
	Delivered uint32 // with AnswersPart: so many items
	Of        uint32
	Status    int // with AnswersSo
	Body      []byte
}

// AnswerKind tells the answers apart.
type AnswerKind uint8

// The kinds of answers.
const (
	AnswersAll  AnswerKind = iota // everything is delivered
	AnswersFail                   // 500
	AnswersNone                   // no answer in time
	AnswersPart                   // some items
	AnswersSo                     // as written out
)

// Who is the account that a step is about, "" if that follows from a reference.
func (s Step) Who() string {
	if s.Act == nil {
		return ""
	}
	return s.Act.who()
}

func (a MakeAccount) who() string   { return a.Account }
func (a Subscribe) who() string     { return a.Account }
func (a Cancel) who() string        { return a.Account }
func (a Buy) who() string           { return a.Account }
func (Pay) who() string             { return "" }
func (a Refund) who() string        { return a.Account }
func (a Reverse) who() string       { return a.Account }
func (a OverrideTerms) who() string { return a.Account }
func (a GiveCredit) who() string    { return a.Account }
func (a Ask) who() string           { return a.Account }
func (a Look) who() string          { return a.Account }

// LoadScenario reads a scenario for a policy. The error is a *FileError, or the one of reading the file.
func LoadScenario(path string, p *Policy) (*Scenario, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	return ParseScenario(path, src, p)
}

// ParseScenario reads a scenario for a policy. The error is a *FileError.
func ParseScenario(file string, src []byte, p *Policy) (*Scenario, error) {
	r := &report{file: file}
	switch {
	case len(src) > sourceBytesMax:
		r.add(Problem{Detail: fmt.Sprintf("has %d bytes; %d are the most", len(src), sourceBytesMax)})
	case blank(src):
		r.add(Problem{Line: 1, Column: 1, Detail: "is empty; a scenario is a list of steps"})
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	root, ok := document(r, src)
	if !ok {
		return nil, r.err()
	}
	s := &Scenario{File: file}
	s.decode(root, &stage{policy: p, buckets: p.Buckets, named: map[string][]string{}})
	return s, r.err()
}

func blank(src []byte) bool {
	for line := range strings.Lines(string(src)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

// stage is what a scenario is read against.
type stage struct {
	policy  *Policy
	buckets []string
	now     time.Time           // of the step before
	named   map[string][]string // the references of the purchases and refunds above, in order
}

func (s *Scenario) decode(root item, on *stage) {
	steps, ok := root.list("a list of steps, such as - at: 2026-03-20T09:00")
	if ok && len(steps) > stepsMax {
		root.failf("has %d steps; %d are the most", len(steps), stepsMax)
		return
	}
	for n, i := range steps {
		step := on.decodeStep(i, n == 0)
		if n == 0 {
			s.Start = step.At
		}
		s.Steps = append(s.Steps, step)
	}
}

// decodeStep reads when a step happens, and its one action.
func (on *stage) decodeStep(i item, first bool) Step {
	step := Step{Line: i.at.Position.Line}
	keys, ok := i.fields("a mapping with at or advance, and an action", append([]string{"at", "advance"}, actNames()...)...)
	if !ok {
		return step
	}
	at, dated := keys["at"]
	advance, paused := keys["advance"]
	switch {
	case dated && paused:
		advance.failf("is there beside at; write one of them")
	case dated:
		step.At, _ = on.moment(at)
		if !step.At.IsZero() && step.At.Before(on.now) {
			at.failf("%s is before the step above, which is at %s; time does not go back",
				step.At.Format(scenarioLayout), on.now.Format(scenarioLayout))
		}
	case paused:
		step.Advance = decodePause(advance)
	}
	if first && !dated {
		i.failf("at is missing; the first step says when the story begins, such as at: 2026-03-20T09:00")
	}
	if !step.At.IsZero() {
		on.now = step.At
	}
	on.now = step.Advance.After(on.now)
	var named []string
	for _, name := range actNames() {
		if act, ok := keys[name]; ok {
			if named = append(named, name); len(named) == 1 {
				step.Act = on.decodeAct(name, act, &step)
			}
		}
	}
	switch {
	case len(named) > 1:
		keys[named[1]].failf("is a second action beside %s; write a step for each", named[0])
	case len(named) == 0 && !dated && !paused:
		i.failf("does nothing; write at, advance, or one of %s", strings.Join(actNames(), ", "))
	}
	return step
}
