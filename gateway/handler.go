package gateway

import (
	"context"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// handle is the life of a request, top-down. Each step returns the problem that ends it, or nil.
//
//	authenticate ▶ match ▶ price ▶ breaker ▶ RESERVE ▶ forward ▶ read the outcome ▶ COMMIT | RELEASE ▶ deliver
func (g *Gateway) handle(x *exchange) *problem {
	if p := g.admit(x); p != nil { // everything that the head alone decides: spelling, caller, route, size
		return p
	}
	if x.own {
		return g.account(x)
	}
	g.passHeaders(x) // before the body, whose trailers fasthttp adds to the head
	if p := g.readBody(x); p != nil {
		return p
	}
	if p := g.price(x); p != nil {
		return p
	}
	if p := g.chooseBackend(x); p != nil { // before reserving: a broken backend costs no round trip to Redis
		return p
	}
	if p := g.reserveCredits(x); p != nil {
		return p
	}
	if x.answered != nil {
		return g.replay(x)
	}
	resp := fasthttp.AcquireResponse()
	if p := g.forward(x, resp); p != nil {
		fasthttp.ReleaseResponse(resp)
		return g.giveBack(x, p)
	}
	if x.streams(resp) {
		g.stream(x, resp, nil) // owns resp from here, settles at its end
		return nil
	}
	return g.deliver(x, resp)
}

// admit runs the checks that need no body, so that a refused client need not send one.
func (g *Gateway) admit(x *exchange) *problem {
	if p := x.readHead(); p != nil {
		return p
	}
	if p := g.authenticate(x); p != nil {
		return p
	}
	x.own = strings.HasPrefix(x.path, g.set.Prefix) && (len(x.path) == len(g.set.Prefix) || x.path[len(g.set.Prefix)] == '/')
	if p := g.checkSuspension(x); p != nil {
		return p
	}
	if n := x.ctx.Request.Header.ContentLength(); n > g.set.RequestBodyMax {
		return bodyTooLarge(g.set.RequestBodyMax)
	}
	if x.own {
		return nil
	}
	return g.match(x, x.method, x.path)
}

// match finds the operation and its price rule. Under `unmatched: pass` there may be none, and the request is free.
func (g *Gateway) match(x *exchange, method, path string) *problem {
	x.policy = g.policies.Policy(x.who.Product)
	if x.policy == nil {
		return &problem{code: codeUnpriced, detail: "no policy is loaded for product " + strconv.Quote(x.who.Product)}
	}
	op, params, ok := x.policy.Match(method, path)
	if ok {
		x.op, x.params = op, params
		return nil
	}
	if x.policy.Passes(path) {
		return nil
	}
	return &problem{code: codeUnpriced, detail: method + " " + path + " is not an operation of " + x.policy.Name}
}

// price finds the most that the request can cost. A free request is not read.
func (g *Gateway) price(x *exchange) *problem {
	if x.op == nil || x.op.Free() {
		return g.atZero(x)
	}
	if p := g.assess(x); p != nil {
		return p
	}
	return x.readKey()
}

// assess finds the price in what the backend will get, not in what the client sent. A price that was negotiated with
// the account counts if it was in force when the request arrived.
func (g *Gateway) assess(x *exchange) *problem {
	var err error
	x.view, err = x.op.Read(policy.Request{
		Params: x.params, Query: []byte(x.query), Header: x.outHead, Body: x.out.Body(),
	})
	if err != nil {
		return priceProblem(err)
	}
	if x.quote, err = x.op.Quote(x.view); err != nil {
		return priceProblem(err)
	}
	if len(x.who.Prices) > 0 && x.quote.Units > 0 {
		if x.agreed = x.who.Price(x.op.Name, x.arrived.Add(x.ahead)); x.agreed != nil {
			x.quote = x.quote.At(x.agreed.Credits)
		}
	}
	return nil
}

// priced reports whether the request costs anything; if not, Redis is never asked.
func (x *exchange) priced() bool { return x.quote.Credits > 0 }

func (g *Gateway) chooseBackend(x *exchange) *problem {
	r, ok := g.upstreams.pick(nil)
	if !ok {
		return &problem{
			code: codeUpstreamUnavailable, retryAfter: seconds(g.set.BreakerPause),
			detail: "the backend failed too often lately and is left alone for a moment; nothing was charged",
		}
	}
	x.route = r
	x.deadline = time.Now().Add(g.set.UpstreamTimeout) // before the reserve is sent: it ends before the lease does
	return nil
}

// tell lets the breaker know how the backend did, once.
func (x *exchange) tell(err error) {
	if x.route.done != nil {
		x.route.done(err)
		x.route.done = nil
	}
}

// serve is the data plane's fasthttp handler.
func (g *Gateway) serve(ctx *fasthttp.RequestCtx) {
	g.metrics.inFlight.Inc()
	x := g.begin(ctx)
	defer func() {
		if r := recover(); r != nil { // fasthttp would end the process, and with it every other request
			g.log.Error().Interface("panic", r).Bytes("stack", debug.Stack()).Msg("bug: request handler panicked")
			g.refuse(x, g.panicked(x))
			if !x.streaming {
				g.end(x)
			}
		}
	}()
	if p := g.handle(x); p != nil {
		g.refuse(x, p)
	}
	if !x.streaming {
		g.end(x)
		g.recycle(x)
	}
}

// panicked settles a request that met a bug. A commit that was asked for may have been done.
func (g *Gateway) panicked(x *exchange) *problem {
	if x.held.State == meter.Committed {
		return x.chargeUnknown(&problem{
			code: codeInternal, detail: "the gateway failed after it asked for the charge, which may have been made",
		})
	}
	return g.giveBack(x, &problem{code: codeInternal, detail: "the gateway failed; nothing was charged"})
}

// expect answers Expect: 100-continue: a client that would be refused is told so before it sends its body.
func (g *Gateway) expect(ctx *fasthttp.RequestCtx) int {
	x := g.begin(ctx)
	defer g.recycle(x)
	p := g.admit(x)
	if p == nil {
		return fasthttp.StatusContinue
	}
	g.refuse(x, p)
	x.lingerOnClose()
	g.metrics.observe(x)
	return ctx.Response.StatusCode()
}

// refuse makes the problem the response.
func (g *Gateway) refuse(x *exchange, p *problem) {
	x.tell(errNotTried)
	x.outcome = string(p.code)
	g.problems.write(&x.ctx.Response, p, x.requestID())
	if !x.bodyRead {
		x.abandonBody()
	}
}

// end is the last thing done for a request, when its answer is final.
func (g *Gateway) end(x *exchange) {
	x.tell(errNotTried)
	x.carrier.close() // if it was not: what is left of it is nobody's
	x.view.Release()
	x.view = policy.View{} // never twice
	g.metrics.inFlight.Dec()
	g.metrics.observe(x)
	if e := g.log.Debug(); e.Enabled() { // the access log: never a body, a key or a query
		e.Str("request_id", x.requestID()).Str("account", x.who.Account).Str("method", x.method).Str("path", x.path).
			Str("operation", x.operation()).Str("outcome", x.outcome).Int("status", x.ctx.Response.StatusCode()).
			Dur("took", time.Since(x.arrived)).Dur("upstream", x.upstream).Msg("request")
	}
}

// within gives a call to the meter or to storage its own time: the client's going away must not cancel it.
func (g *Gateway) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(g.base, d)
}

func seconds(d time.Duration) int { return max(1, int((d+time.Second-1)/time.Second)) }
