package gateway

import (
	"errors"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
)

// forward sends the request to the backend and waits for the head of the answer.
func (g *Gateway) forward(x *exchange, resp *fasthttp.Response) *problem {
	g.requestHeaders(x)
	began := time.Now()
	sent, err := g.upstreams.send(x, resp)
	x.upstream += time.Since(began)
	if err == nil && resp.StatusCode() < fasthttp.StatusOK {
		x.carrier.close()
		err = errSwitched
	}
	if err != nil {
		return g.upstreamFailed(x, err, sent)
	}
	return nil
}

// errSwitched says that the backend left HTTP, which nobody asked it to: Upgrade is not forwarded.
var errSwitched = errors.New("backend answered with an interim status")

// upstreamFailed turns a broken exchange with the backend into a problem.
func (g *Gateway) upstreamFailed(x *exchange, err error, sent bool) *problem {
	ours := errors.Is(err, fasthttp.ErrNoFreeConns) || errors.Is(err, errNoTimeLeft)
	if ours {
		err = errors.Join(errNotTried, err) // our limit, not the backend's fault
	}
	x.tell(err)
	if sent {
		g.metrics.ambiguous.WithLabelValues(g.metrics.operation(x).name).Inc()
	}
	p := upstreamProblem(err, sent)
	why := unquoted(err)
	if !ours {
		g.backend.Failed(errors.New(why))
	}
	g.log.Debug().Str("error", why).Bool("sent", sent).Str("request_id", x.requestID()).Str("account", x.who.Account).
		Str("code", string(p.code)).Msg("backend gave no whole answer")
	return p
}

// deliver reads the whole answer, settles, and only then lets the client have it.
func (g *Gateway) deliver(x *exchange, resp *fasthttp.Response) *problem {
	whole, err := g.readAnswer(x, resp)
	if err == nil && !whole && x.streamable(resp) {
		g.stream(x, resp, x.ctx.Response.SwapBody(nil)) // larger than the buffer: hold back only its end
		return nil
	}
	x.carrier.close() // the next request may have the connection while this one is settled
	defer fasthttp.ReleaseResponse(resp)
	if err != nil {
		p := g.upstreamFailed(x, err, true)
		p.answer = newUpstreamAnswer(resp)
		return g.giveBack(x, p)
	}
	g.backend.OK()
	x.tellStatus(resp.StatusCode())
	if !whole {
		return g.giveBack(x, g.tooLargeAnswer(x, resp))
	}
	if !x.priced() {
		x.outcome = outcomeFree
		g.responseHeaders(&x.ctx.Response, resp)
		x.ctx.Response.Header.Set("X-Request-Id", x.requestID())
		return nil
	}
	units, p := g.delivered(x, resp)
	if p != nil {
		return g.giveBack(x, p)
	}
	s := settled{amount: x.quote.Charge(units)}
	if units == 0 || s.amount == 0 {
		s = g.release(x)
	} else {
		g.keepAnswer(x, resp)
		if s, p = g.commit(x, units, s.amount); p != nil {
			return p
		}
	}
	g.responseHeaders(&x.ctx.Response, resp)
	x.creditHeaders(s)
	return nil
}

// tellStatus tells the breaker: a 4xx is the client's doing and a healthy answer.
func (x *exchange) tellStatus(status int) {
	if status >= fasthttp.StatusInternalServerError {
		x.tell(errAnswered5xx)
		return
	}
	x.tell(nil)
}

// readAnswer reads the backend's body into the client's response. whole is false when it exceeds the buffer.
func (g *Gateway) readAnswer(x *exchange, resp *fasthttp.Response) (whole bool, err error) {
	if resp.BodyStream() == nil {
		return true, nil
	}
	n := resp.Header.ContentLength()
	if n > g.set.ResponseBufferMax {
		return false, nil
	}
	began := time.Now()
	buf, whole, err := readAll(x.ctx.Response.SwapBody(nil), &x.carrier, n, g.set.ResponseBufferMax)
	x.ctx.Response.SwapBody(buf)
	x.upstream += time.Since(began)
	return whole, err
}

// creditHeaders says what the request cost.
func (x *exchange) creditHeaders(s settled) {
	h := &x.ctx.Response.Header
	h.Set("X-Request-Id", x.requestID())
	h.Set("X-Credits-Reservation", x.reservationID())
	x.setCredits("X-Credits-Reserved", x.reserve.Amount)
	x.setCredits("X-Credits-Charged", s.charged)
	x.remainingHeader(s)
}

// remainingHeader says what is left, where that is known.
func (x *exchange) remainingHeader(s settled) {
	switch {
	case s.unlimited:
		x.ctx.Response.Header.Set("X-Credits-Remaining", "unlimited")
	case s.known:
		x.setCredits("X-Credits-Remaining", s.remaining)
	}
}

// setCredits writes an amount into a header of the answer.
func (x *exchange) setCredits(name string, amount meter.Credits) {
	var digits [24]byte // of an int64 with a point: 21 at most
	x.ctx.Response.Header.SetBytesV(name, amount.Append(digits[:0]))
}

// settled is the outcome of a reservation as the client sees it.
type settled struct {
	amount    meter.Credits // asked to be charged
	charged   meter.Credits
	remaining meter.Credits
	known     bool // remaining is: the meter answered
	unlimited bool // a fair-use cap is in force: the customer is told no number
}
