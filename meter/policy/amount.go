package policy

import (
	"fmt"
	"math"
	"strconv"

	"creditgate/meter"
)

// Amount is an amount of credit that depends on the slots a subscription has booked, such as slots * 10.
type Amount struct {
	text   string
	slots  func(slots uint32) meter.Credits
	varies bool // with the slots
}

// FixedAmount is c, whatever the slots are.
func FixedAmount(c meter.Credits) Amount {
	return Amount{text: c.String(), slots: func(uint32) meter.Credits { return c }}
}

// PerSlot is c for each slot.
func PerSlot(c meter.Credits) Amount {
	return Amount{
		text: "slots * " + c.String(), slots: func(n uint32) meter.Credits { return c * meter.Credits(n) }, varies: true,
	}
}

// For is the amount for so many slots, rounded to the nearest thousandth. Beyond SlotsMax it is that of SlotsMax: up to
// there it was proved at load to be neither negative nor too large. The zero Amount is nothing.
func (a Amount) For(slots uint32) meter.Credits {
	if a.slots == nil {
		return 0
	}
	return a.slots(min(slots, SlotsMax))
}

// String is the amount as the policy has it.
func (a Amount) String() string { return a.text }

// decodeAmount reads how much is given: a number, or an expression over slots. nothing says what a 0 means here.
func decodeAmount(i item, nothing string) Amount {
	if text := i.number(); text != "" {
		c := decodeCredits(i, text, amountMax, "write how many credits are given")
		if n, err := meter.ParseCredits(text); err == nil && n == 0 {
			i.failf("0 %s", nothing)
		}
		return FixedAmount(c)
	}
	e := decodeExpression(i, "a number of credits or an expression such as slots * 10", scope{needs: &needs{}, slots: true})
	if e == nil {
		return FixedAmount(0)
	}
	switch {
	case e.lo < 0:
		i.failf("can fall below 0 (to %s, over 0 to %d slots); write max(0, …)", plainFloat(e.lo), SlotsMax)
	case e.hi == 0:
		i.failf("always comes to 0, which %s", nothing)
	case e.hi > amountMax:
		i.failf("can reach %s at %d slots, and %d is the most; bound it with min(…, 5000)", plainFloat(e.hi), SlotsMax, amountMax)
	}
	return Amount{text: e.source, slots: e.amount, varies: true}
}

// amount runs an expression over slots. It cannot fail: analysis let pass only arithmetic on one number within bounds,
// with no division by zero and nothing to look up.
func (e *expression) amount(slots uint32) meter.Credits {
	out, err := e.run(map[string]any{"slots": int(slots)})
	var f float64
	switch v := out.(type) {
	case int:
		f = float64(v)
	case float64:
		f = v
	default:
		err = fmt.Errorf("it comes to %v", out)
	}
	if err != nil || !(f >= 0 && f <= amountMax) {
		panic(fmt.Sprintf("policy: BUG: %s for %d slots: %v, %v", e.source, slots, f, err))
	}
	return meter.Credits(math.Round(f * float64(meter.Credit)))
}

func plainFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
