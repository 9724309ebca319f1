package gateway

import (
	"errors"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"creditgate/meter"
)

// retrySoonSeconds is how long a client waits for reservations of its own to be settled.
const retrySoonSeconds = 1

// sweepSeconds is how long after the end of a lease its credits are back: leases are looked at every second.
const sweepSeconds = 1

// reserveCredits holds the request's price. Nothing is asked of Redis for a free one.
func (g *Gateway) reserveCredits(x *exchange) *problem {
	if !x.priced() {
		return nil
	}
	id := g.meter.NewReservationID(x.who.Account)
	x.reserve = meter.Reserve{
		ID: id, Account: x.who.Account, Amount: x.quote.Credits, Lease: g.set.lease(), MaxInFlight: g.set.MaxInFlight,
		Note:  meter.Note{Operation: x.op.Name, PolicyVersion: x.policy.Version(), KeyID: x.who.KeyID, Key: x.key},
		Until: time.Now().Add(g.set.SettleBudget), Brief: true,
	}
	if x.agreed != nil { // the version names the price list; the reason says that it was not the list's price
		x.reserve.Note.Reason = x.agreed.Reason
	}
	x.reservedAs(id)
	d, err := g.meter.Reserve(g.base, x.reserve)
	if err != nil {
		return g.reserveFailed(x, err)
	}
	if d.Code == meter.CodeOK && d.Reservation.State == meter.Held {
		x.held = d.Reservation
		return nil
	}
	return g.reserveDenied(x, d)
}

// failing begins the log line about a call that failed for a request.
func (g *Gateway) failing(x *exchange, err error) *zerolog.Event {
	return g.outages.Log(g.log, err).Str("request_id", x.requestID()).Str("account", x.who.Account)
}

func (g *Gateway) reserveFailed(x *exchange, err error) *problem {
	if errors.Is(err, meter.ErrNoAccount) {
		return &problem{code: codeUnauthenticated, detail: "the account no longer exists"}
	}
	g.failing(x, err).Msg("cannot reserve")
	return meteringUnavailable("credits cannot be reserved at the moment; the backend was not asked, nothing is charged")
}

// reserveDenied says why the meter refused.
func (g *Gateway) reserveDenied(x *exchange, d meter.Decision) *problem {
	switch d.Code {
	case meter.CodeInsufficient:
		return g.insufficient(x, d)
	case meter.CodeSuspended:
		return &problem{code: codeSuspended, detail: "account " + x.who.Account + " is suspended"}
	case meter.CodeInFlight:
		return &problem{
			code: codeTooManyInFlight, retryAfter: retrySoonSeconds,
			detail: "the account has too many unfinished requests; wait for some to end",
		}
	case meter.CodeKeyInProgress:
		return inProgress(d)
	case meter.CodeKeyMismatch:
		return &problem{
			code: codeMismatch, param: "Idempotency-Key",
			detail: "this Idempotency-Key was used for a request with another route, query, units or content",
		}
	case meter.CodeKeyReplay:
		x.answered = &d.Reservation
		return nil
	default:
		g.log.Error().Uint8("code", uint8(d.Code)).Str("state", d.Reservation.State.String()).
			Str("request_id", x.requestID()).Msg("unexpected answer to a reserve")
		return meteringUnavailable("credits cannot be reserved at the moment; nothing was sent to the backend or charged")
	}
}

// inProgress answers a repeat whose first request is not settled. While the gateway that has it runs, it may end at any
// moment, and its lease is no measure of that. Once that gateway has stopped, the key is free when the lease is over, and
// no repeat is of use before.
func inProgress(d meter.Decision) *problem {
	end := timeText(time.UnixMilli(d.Reservation.DeadlineMs))
	p := &problem{
		code: codeInProgress, retryAfter: retrySoonSeconds, lease: &leaseEnd{ExpiresAt: end},
		detail: "a request with this Idempotency-Key is not finished; ask again for its answer",
	}
	if d.HolderGone {
		left := max(0, d.Reservation.DeadlineMs-d.NowMs)
		p.retryAfter = int((left+999)/1000) + sweepSeconds
		p.detail = "the gateway that had the request with this Idempotency-Key has stopped before it was finished; " +
			"its credits come back when its lease ends, at " + end + "; repeat the request then"
	}
	return p
}

// insufficient is the 402 of a priced request.
func (g *Gateway) insufficient(x *exchange, d meter.Decision) *problem {
	w := g.wallet(&x.who, d)
	p := insufficient(x.quote.Credits, &w)
	if p.shortfall == nil {
		return p
	}
	if x.quote.UnitCredits > 0 {
		p.shortfall.AffordableUnits = uint32(min(int64(p.shortfall.Available/x.quote.UnitCredits), int64(x.quote.Units)))
	}
	if x.quote.Units > 1 {
		p.detail += ", enough for " + strconv.Itoa(int(p.shortfall.AffordableUnits)) + " of " +
			strconv.Itoa(int(x.quote.Units)) + " units"
	}
	return p
}

// insufficient says what is missing. Retrying helps only while the account's own unfinished requests hold it.
func insufficient(required meter.Credits, w *wallet) *problem {
	if limit, ok := w.account.Stopped(w.nowMs); ok {
		return beyondFairUse(limit)
	}
	available, held := w.account.Available(w.nowMs), w.account.Held()
	p := &problem{
		code: codeInsufficient, detail: required.String() + " credits are needed, " + available.String() + " available",
		shortfall: &shortfall{
			Required: required, Available: available, Held: held, Buckets: w.bucketViews(w.policyCaps()),
			NextResetAt: w.resetAt(), Advice: w.advice(required),
		},
	}
	if held > 0 && available+held >= required {
		p.retryAfter = retrySoonSeconds
		p.detail += ", " + held.String() + " held by unfinished requests"
	}
	return p
}

// settle is the settlement. Its time is for all of it, storing the answer included: the lease has room for one budget.
func (g *Gateway) settle(x *exchange, units uint32, amount meter.Credits) meter.Settle {
	if x.settleBy.IsZero() {
		x.settleBy = time.Now().Add(g.set.SettleBudget)
	}
	return meter.Settle{
		ID: x.reserve.ID, Account: x.reserve.Account, Amount: amount, Units: units,
		Reserved: x.reserve.Amount, Note: x.reserve.Note, Until: x.settleBy, Brief: true,
	}
}

// commit charges for what was delivered. When the meter cannot say whether it did, the journal takes the commit
// over; when the journal cannot either, the response must not be delivered, and the lease gives the credit back.
func (g *Gateway) commit(x *exchange, units uint32, amount meter.Credits) (settled, *problem) {
	x.outcome = outcomeCommitted
	if units < x.quote.Units {
		x.outcome = outcomePartial
	}
	x.held.State = meter.Committed // asked once, whatever the answer
	s, attempted := g.settle(x, units, amount), time.Now().Add(x.ahead)
	d, err := g.meter.Commit(g.base, s)
	if r := d.Reservation; err == nil && (d.Code == meter.CodeOK || d.Code == meter.CodeConflict) {
		if d.Code == meter.CodeConflict { // somebody else settled it, by the control plane: what is booked stands
			g.log.Error().Str("request_id", x.requestID()).Str("state", r.State.String()).
				Stringer("charged", r.Charged).Stringer("wanted", amount).Msg("reservation was settled otherwise")
		}
		g.metrics.settledAs(r.State)
		x.chargeIsFinal(r.Charged > 0)
		return settled{amount: amount, charged: r.Charged, remaining: r.Available, known: true, unlimited: r.Unlimited}, nil
	}
	g.metrics.settlements.WithLabelValues("unknown").Inc()
	if jerr := g.journal.Append(s, attempted); jerr != nil {
		g.metrics.journalled.WithLabelValues("failed").Inc()
		g.failing(x, jerr).AnErr("commit", err).
			Msg("commit neither acknowledged nor journalled: response withheld")
		x.creditHeaders(settled{})
		return settled{}, x.chargeUnknown(meteringUnavailable("the charge could not be recorded, so the result was withheld"))
	}
	g.metrics.journalled.WithLabelValues("kept").Inc()
	g.failing(x, err).Uint8("code", uint8(d.Code)).Msg("commit left to the journal")
	x.chargeIsFinal(true)
	return settled{amount: amount, charged: amount}, nil
}

// chargeUnknown completes the problem of a request that may be charged although its result was withheld. A repeat with
// the same Idempotency-Key finds out; one without a key would buy the work a second time.
func (x *exchange) chargeUnknown(p *problem) *problem {
	if x.key == nil {
		p.final, p.retryAfter = true, 0
		p.detail += "; a repeat may be charged again: look the reservation up first"
	}
	return p
}

// release gives everything back. If it cannot be said now, the lease does it.
func (g *Gateway) release(x *exchange) settled {
	if x.held.State != meter.Held {
		return settled{}
	}
	x.held.State = meter.Released // asked once, whatever the answer
	x.outcome = outcomeReleased
	d, err := g.meter.Release(g.base, g.settle(x, 0, 0))
	if err != nil || d.Code != meter.CodeOK {
		g.metrics.settlements.WithLabelValues("unknown").Inc()
		g.failing(x, err).Uint8("code", uint8(d.Code)).Msg("release left to the lease")
		return settled{}
	}
	g.metrics.settledAs(d.Reservation.State)
	return settled{remaining: d.Reservation.Available, known: true, unlimited: d.Reservation.Unlimited}
}

// giveBack releases what the request holds and passes its problem on.
func (g *Gateway) giveBack(x *exchange, p *problem) *problem {
	if x.held.State == meter.Held {
		x.creditHeaders(g.release(x))
	}
	return p
}
