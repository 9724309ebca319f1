package gateway

import "errors"

// ErrInvalid is the sentinel of a Refusal: a value is none that can be taken.
var ErrInvalid = errors.New("invalid")

// Refusal is why something that was asked for is not done. It unwraps to its sentinel.
type Refusal struct {
	Is     error
	Param  string // what was asked for wrongly, as the request names it; may be empty
	Detail string // for whoever asked
}

// Error is the reason.
func (r *Refusal) Error() string { return r.Is.Error() + ": " + r.Detail }

// Unwrap is the sentinel.
func (r *Refusal) Unwrap() error { return r.Is }

// refusal is the problem of what the policy, or what is recorded, forbids.
func refusal(r *Refusal) *problem {
	p := &problem{code: codeConflict, detail: r.Detail, param: r.Param, final: true}
	for is, code := range map[error]code{
		ErrInvalid: codeInvalid, ErrNotEligible: codeNotEligible, ErrSubscriptionRequired: codeSubscriptionRequired,
		ErrNotRefundable: codeNotRefundable,
	} {
		if errors.Is(r.Is, is) {
			p.code = code
		}
	}
	return p
}
