package policy

import "creditgate/meter"

// Quote is the upper bound of a request's price: what is reserved.
type Quote struct {
	Units       uint32
	UnitCredits meter.Credits
	Credits     meter.Credits // Units × UnitCredits; 0 means that the request is free and nothing is reserved

	view View // kept where delivered units are counted against the request
}

// Charge is the price of the units delivered, at most Units of them.
func (q Quote) Charge(units uint32) meter.Credits { return 0 }

// Quote prices a request. The error is an *InputError.
func (o *Operation) Quote(v View) (Quote, error) { return Quote{}, nil }

// MaxQuote is the most that a request of this operation can cost: Max units of the dearest kind. It is the price
// of a body too large to be read.
func (o *Operation) MaxQuote() Quote { return Quote{} }

// Delivered counts the units of q that a response delivered. Without a `delivered` rule a 2xx delivers all.
// Any other status delivers none. body is needed only if NeedsResponse; ok is false if it cannot be read, and
// then nothing counts as delivered.
func (o *Operation) Delivered(q Quote, status int, body []byte) (units uint32, ok bool) { return 0, true }
