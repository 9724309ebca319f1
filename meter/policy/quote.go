package policy

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"creditgate/meter"
)

// Quote is the upper bound of a request's price: what is reserved.
type Quote struct {
	Units       uint32
	UnitCredits meter.Credits
	Credits     meter.Credits // Units × UnitCredits; 0 only for a free operation: nothing is reserved

	env map[string]any // the view's, kept where delivered units are counted against the request
}

// UnitCreditsMax is the highest price of a unit, also of a negotiated one.
const UnitCreditsMax = unitCreditsMax * meter.Credit

// UnitPrice is a price of one operation's unit that was negotiated with one account.
type UnitPrice struct {
	Operation string
	Credits   meter.Credits
	From      time.Time
	Until     time.Time // the first moment at which it does not hold; zero: until further notice
	Ref       string    // the reference it was agreed under
	Reason    string    // what a ledger entry says of it
}

// Holds reports whether the price is in force at t.
func (u *UnitPrice) Holds(t time.Time) bool {
	return !t.Before(u.From) && (u.Until.IsZero() || t.Before(u.Until))
}

// At is the quote with another price of a unit: units, and with them the maximum, stay as the request has them. A
// negotiated 0 makes the request free. What is free for everybody stays so: such a quote has no units.
func (q Quote) At(unit meter.Credits) Quote {
	q.UnitCredits = min(max(unit, 0), UnitCreditsMax) // checked when it was agreed; here so that Charge holds
	q.Credits = q.Charge(q.Units)
	return q
}

// Charge is the price of the units delivered, at most Units of them.
func (q Quote) Charge(units uint32) meter.Credits {
	return q.UnitCredits * meter.Credits(min(units, q.Units)) // below unitsMax × unitCreditsMax, far inside MaxCredits
}

// Quote prices a request that meets what its operation requires. The error is an *InputError.
func (o *Operation) Quote(v View) (Quote, error) {
	if o.Free() {
		return Quote{}, nil
	}
	if len(o.require) > 0 {
		if err := o.check(v.env()); err != nil {
			return Quote{}, err
		}
	}
	q := Quote{Units: o.fixedUnit, UnitCredits: o.fixed}
	if o.units != nil {
		n, err := o.countUnits(v.env())
		if err != nil {
			return Quote{}, err
		}
		q.Units = n
	}
	if o.credits != nil {
		c, err := o.unitCredits(v.env())
		if err != nil {
			return Quote{}, err
		}
		q.UnitCredits = c
	}
	q.Credits = q.Charge(q.Units)
	if o.keepsView {
		q.env = v.env()
	}
	return q, nil
}

func (o *Operation) countUnits(env map[string]any) (uint32, error) {
	out, err := o.units.run(env)
	n, ok := whole(out)
	switch {
	case err != nil || out == nil:
		return 0, o.units.refuse(env, err)
	case !ok:
		return 0, &InputError{ErrInvalid, o.units.param(), fmt.Sprintf("The units come to %s, which is not a whole number.",
			show(out))}
	case n >= 1 && n <= int64(o.Max):
		return uint32(n), nil
	}
	param := o.units.param()
	if n < 1 {
		return 0, &InputError{ErrInvalid, param, fmt.Sprintf("%s asks for %d; ask for 1 to %d.", param, n, o.Max)}
	}
	return 0, &InputError{ErrTooMany, param, fmt.Sprintf("%s asks for %d; one request may have at most %d.", param, n, o.Max)}
}

// unitCredits evaluates the price of a unit, rounded to the nearest thousandth. No price is a refusal, never a
// gift: a model that the policy does not know has none. Nor is a computed 0 a gift: backends take some value of
// their own for a 0 that they are sent.
func (o *Operation) unitCredits(env map[string]any) (meter.Credits, error) {
	out, err := o.credits.run(env)
	if err != nil || out == nil {
		return 0, o.credits.refuse(env, err)
	}
	var f float64
	switch v := out.(type) {
	case int:
		f = float64(v)
	case float64:
		f = v
	default:
		return 0, &InputError{ErrInvalid, o.credits.param(), fmt.Sprintf("The price comes to %s, which is not a number.", show(out))}
	}
	c := meter.Credits(math.Round(f * float64(meter.Credit)))
	if c < 0 || f > o.credits.hi || math.IsNaN(f) { // analysis bounds it; this is the paired check
		return 0, &InputError{ErrInvalid, o.credits.param(), fmt.Sprintf("The price comes to %s, which is out of range.", show(out))}
	}
	if c == 0 { // or it rounds to 0: only an operation with the literal price 0 is free
		return 0, &InputError{ErrInvalid, o.credits.param(), fmt.Sprintf(
			"The price comes to %s credits, and this operation is not free; the least is 0.001.", show(out))}
	}
	return c, nil
}

// Delivered counts the units of q that a response delivered. Without a `delivered` rule a 2xx delivers all. Any
// other status delivers none. body is needed only if NeedsResponse. ok is false if the rule cannot be counted in it, and
// then nothing is charged: the caller passes the answer on if ShowsFailure, and withholds it otherwise.
func (o *Operation) Delivered(q Quote, status int, body []byte) (units uint32, ok bool) {
	switch {
	case status < 200 || status > 299:
		return 0, true
	case o.delivered == nil:
		return q.Units, true
	}
	m := o.memory()
	defer o.forget(m)
	response, bad := readJSON(body, o.needs.response, true, m)
	if bad != nil {
		return 0, false
	}
	maps.Copy(m.env, q.env)
	m.env["response"], m.env["units"] = response, int(q.Units)
	out, err := o.delivered.run(m.env)
	n, isWhole := whole(out)
	if err != nil || !isWhole || n < 0 {
		return 0, false
	}
	return uint32(min(n, int64(q.Units))), true
}

// whole is v as an integer. Computed fractions such as ceil's results are numbers without a fraction.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int:
		return int64(v), true
	case float64:
		if n := int64(v); math.Abs(v) <= exactMax && float64(n) == v {
			return n, true
		}
	}
	return 0, false
}

// param is the name that a message about the result blames: the first one read.
func (e *expression) param() string {
	if len(e.refs) == 0 {
		return ""
	}
	return e.refs[0].String()
}

// refuse explains why there is no result: the names that are missing, or the values that have no price.
func (e *expression) refuse(env map[string]any, cause error) *InputError {
	var missing, sent []string
	must, text := false, ""
	var odd any // the first text that is no number, under the name text
	for _, r := range e.refs {
		v, name := r.value(env), r.String()
		below := slices.ContainsFunc(missing, func(m string) bool { return name == m || strings.HasPrefix(name, m+".") })
		switch {
		case v == nil && (r.must || r.either):
			must = must || r.must
			if !below {
				missing = append(missing, name)
			}
		case v != nil:
			sent = append(sent, name+" "+brief(v))
			if s, isText := v.(string); isText && text == "" {
				if _, ok := wholeNumber(s); !ok {
					text, odd = name, v
				}
			}
		}
	}
	switch {
	case must:
		return &InputError{ErrInvalid, missing[0], strings.Join(missing, " or ") + " is missing; the price depends on it."}
	case errors.Is(cause, errNotNumber) && text != "":
		return &InputError{ErrInvalid, text, fmt.Sprintf(
			"%s is %s; write a whole number from 0 to %d, without sign, point or leading zero.", text, brief(odd), intMax)}
	case cause != nil: // the library's words name Go types
		return &InputError{ErrInvalid, e.param(), fmt.Sprintf("The price cannot be computed from %s, which is of another kind.",
			either(sent))}
	}
	return &InputError{ErrInvalid, e.param(), fmt.Sprintf("There is no price for %s.", either(sent))}
}

func either(sent []string) string {
	if len(sent) == 0 {
		return "this request"
	}
	return strings.Join(sent, ", ")
}

func brief(v any) string {
	switch v := v.(type) {
	case counted:
		return fmt.Sprintf("(%d elements)", len(v))
	case []any:
		return fmt.Sprintf("(%d elements)", len(v))
	case map[string]any:
		return "(an object)"
	}
	return show(v)
}

// value looks a name up in a view.
func (r ref) value(env map[string]any) any {
	v := env[r.source]
	for _, name := range r.path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}
