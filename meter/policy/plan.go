package policy

import (
	"time"

	"creditgate/meter"
)

// Bounds of plans, promotions and packs.
const (
	plansMax      = 64
	promotionsMax = 32
	packsMax      = 64
	SlotsMax      = 1_000_000         // that a subscription may have booked
	amountMax     = 100_000_000_000   // credits of one grant: of 64 live grants each, the sum is still below 2^53
	priceMax      = 1_000_000_000_000 // minor units of one pack
)

// AmountMax is the most that one grant has, also one that is negotiated, or several packs that are bought at once.
const AmountMax = amountMax * meter.Credit

// Plan is what a subscription gives: contingents that are renewed every cycle, promotions, and packs that may be
// bought.
type Plan struct {
	Name        string
	Contingents []Contingent // under the key of each one's bucket; in drain order
	Promotions  []*Promotion // their names under the key of their bucket
	Packs       []*Pack      // packs: as listed, smallest first
}

// UsesSlots reports whether what the plan gives depends on the slots that are booked.
func (p *Plan) UsesSlots() bool {
	for _, c := range p.Contingents {
		if c.Amount.varies {
			return true
		}
	}
	for _, m := range p.Promotions {
		if m.Amount.varies {
			return true
		}
	}
	return false
}

// Contingent is the credit of one bucket that a plan renews every cycle.
type Contingent struct {
	Bucket string
	Rank   uint8
	Amount Amount // credits; or fair_use, if Unlimited
	// Unlimited (unlimited: true) says that Amount is a fair-use cap and not something to be counted down before people's
	// eyes.
	Unlimited bool
	// Stops says that nothing of the buckets behind is spent while this contingent is in force, even when it is used
	// up: a request beyond the cap is refused (after_cap: refuse, the default; draw: the next bucket pays).
	Stops bool
}

// Promotion is a bonus that everybody on its plans gets inside one window of time, however late they join.
type Promotion struct {
	Name     string
	Bucket   string
	Rank     uint8
	Starts   time.Time // starts: the window's first moment, that of a local day
	Ends     time.Time // lasts: so long after; the first moment that is not in the window
	Amount   Amount    // credits
	PerCycle bool      // per: cycle, the default: one grant per cycle that overlaps the window; per: window: one in all
}

// Pack is a lot of credit that can be bought.
type Pack struct {
	Name       string
	Bucket     string
	Rank       uint8
	Credits    meter.Credits // of one
	Price      Money         // of one, net
	Lifetime   Lifetime      // expires; default never
	Refundable bool          // what is left may be given back for money; default no
	BuyURL     string        // buy_url: where it is sold; may be empty
	// NeedsSubscription (needs_subscription) says who may buy a pack that no plan lists: every subscriber, or everybody.
	// One that plans list is sold to those plans.
	NeedsSubscription bool
}

// Money is an amount in the minor unit of its currency (ISO 4217).
type Money struct {
	Minor    int64
	Currency string
}

// Lifetime says when bought credit expires.
type Lifetime struct {
	Kind  LifetimeKind
	After Span      // with AfterPurchase
	At    time.Time // with AtDate: the first moment at which it is gone
}

// LifetimeKind tells the kinds of expiry apart.
type LifetimeKind uint8

// The kinds of expiry.
const (
	NeverExpires  LifetimeKind = iota // never
	AfterPurchase                     // {after: 1y}: a calendar span after the purchase, at the end of that local day
	AtDate                            // {at: 2027-01-01}: at a date that the policy names
	NextRenewal                       // next_renewal: the account's, wherever that moves to
)

// Span is a stretch of the calendar: 1y is the same date a year on, 4w is 28 local days, however long the days are.
type Span struct{ Years, Months, Days int }

// Cycle says when contingents are renewed.
type Cycle struct {
	// DayOfMonth is the day from 1 to 31 (anchor: {day_of_month: 1}); in shorter months the last one. 0: the day on which
	// the subscription began (anchor: subscription_start).
	DayOfMonth int
	// At is the local time of day of the renewal, since midnight. It counts with a day of month only: cycles from the
	// subscription's start begin at the same local time as the subscription did.
	At time.Duration
}

// Rules are the settings for what products decide differently. The zero value of each is the default.
type Rules struct {
	// SlotsUpNextCycle: more slots count from the next cycle on (slots_up: next_cycle); default: what exceeds is granted at
	// once.
	SlotsUpNextCycle bool

	GrantOnPayment bool      // packs are granted when paid (grant_on: payment); default: when bought, on invoice
	OnOverdue      OnOverdue // what happens to packs whose invoice is overdue (on_overdue)
	WriteOff       bool      // what was spent of a pack taken back is lost (clawback: write_off); default: it becomes debt
	RefuseWhile    bool      // packs cannot be bought while other credit is left (while_credit_left: refuse)
	Discounts      bool      // purchases, and units by overrides, may cost less than listed (discounts: allowed); default: refused
	VolumeDiscount bool      // a credit of a larger pack must cost less (volume_discount: required); default: no less is a warning
	PacksPerPlan   int       // packs_per_plan: exactly so many for each plan that may buy; 0: any number

	WaitDays int // advice: {wait_days: 7}: to wait, when a reset within so many days suffices; 0: never
}

// OnOverdue is what happens to a pack whose invoice is not paid in time.
type OnOverdue uint8

// What can happen to a pack whose invoice is overdue.
const (
	KeepOverdue   OnOverdue = iota // nothing: the invoice is somebody else's business
	FreezeOverdue                  // what is left of it cannot be spent until it is paid
	RevokeOverdue                  // it is taken back
)

// Notices say which events a product wants, and when.
type Notices struct {
	LowPercent      []int // low: available falls below so many percent of what was granted; from the highest down
	ExpiringDays    int   // expiring_days: credits.expiring, so many days ahead; 0: never
	FairUsePercent  []int // fair_use: so many percent of the cap are used; from the lowest up
	PromotionEnding int   // promotion_ending_days: promotion.ending, so many days ahead; 0: never
}

// Assumption is a value that the product's description leaves open and the policy decided, by the rule's id.
type Assumption struct{ Rule, Value string }
