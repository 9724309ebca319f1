package gateway

import (
	"creditgate/meter"
)

// beyondFairUse is the 429 of a request that a used-up cap refuses. Buying credit would not help, and waiting only until
// the cap is over.
func beyondFairUse(limit meter.Grant) *problem {
	p := &problem{
		code: codeFairUse, limit: &fairUseLimit{},
		detail: "the plan's fair-use limit does not allow this request",
	}
	if limit.ExpiresMs != meter.Never {
		at := msText(limit.ExpiresMs)
		p.limit.ResetsAt = &at
		p.detail += "; it is renewed at " + at
	}
	return p
}

// atZero refuses a free operation to an account that has no credit left, where the policy says so. Only then is Redis
// asked for a free request.
func (g *Gateway) atZero(x *exchange) *problem {
	if x.op == nil || !x.op.Free() || !x.op.AtZeroRefuse {
		return nil
	}
	d, p := g.readAccount(x.who.Account)
	switch {
	case p != nil:
		return p
	case d.Account.Suspended: // as Redis has it, which is sooner than the identity that was looked up
		return &problem{code: codeSuspended, detail: "account " + x.who.Account + " is suspended"}
	case d.Account.Available(d.NowMs) > 0:
		return nil
	}
	w := g.wallet(&x.who, d)
	const least meter.Credits = 1
	p = insufficient(least, &w)
	if p.shortfall != nil {
		p.detail = "this operation is free, but needs an account with credit left; there is none"
	}
	return p
}
