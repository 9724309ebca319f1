package gateway

import (
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"
)

// errWithheld ends a streamed response without its terminating chunk, so that no client takes it for whole.
var errWithheld = errors.New("response withheld: not settled")

// stream passes the backend's body on as it comes, all but its end, which waits for the settlement. What it cost
// follows as a trailer. begun is what was read already.
func (g *Gateway) stream(x *exchange, resp *fasthttp.Response, begun []byte) {
	x.streaming = true
	to := &x.ctx.Response
	g.responseHeaders(to, resp)
	to.Header.Set("X-Request-Id", x.requestID())
	if x.priced() {
		to.Header.Set("X-Credits-Reservation", x.reservationID())
		x.setCredits("X-Credits-Reserved", x.reserve.Amount)
		_ = to.Header.SetTrailer("X-Credits-Charged, X-Credits-Remaining") // neither is a forbidden trailer
	}
	if isEventStream(string(resp.Header.ContentType())) {
		to.Header.Set("X-Accel-Buffering", "no") // a proxy in front must not wait for the end either
	}
	to.ImmediateHeaderFlush = true
	to.SetBodyStream(newTap(g, x, resp, begun), -1)
}

// clientShare is the part of the backend's time that a client may spend on not reading before a stream that then
// breaks is its own doing: 1/10.
const clientShare = 10

// tap is a streamed response body. fasthttp reads it to its end, or closes it when the client is gone; either way
// it settles exactly once.
type tap struct {
	g    *Gateway
	x    *exchange
	resp *fasthttp.Response
	hold *holdback
	end  error // set once settled: what Read returns when nothing is left

	given   time.Time     // when the client was last given something to take; zero while the backend is waited for
	blocked time.Duration // spent waiting for the client
}

func newTap(g *Gateway, x *exchange, resp *fasthttp.Response, begun []byte) *tap {
	most := 0
	if x.priced() {
		most = holdMax
	}
	events := isEventStream(string(resp.Header.ContentType())) && len(resp.Header.Peek("Content-Encoding")) == 0
	return &tap{g: g, x: x, resp: resp, hold: newHoldback(most, events, begun)}
}

// Read passes bytes on, the last of them only after the settlement, and then io.EOF: fasthttp writes the
// terminating chunk.
func (t *tap) Read(p []byte) (int, error) {
	t.taken()
	for {
		n := t.hold.pass(p, t.end != nil)
		if n > 0 || t.end != nil {
			t.give()
			if n > 0 {
				return n, nil
			}
			return 0, t.end
		}
		began := time.Now()
		n, err := t.hold.fill(&t.x.carrier)
		t.x.upstream += time.Since(began)
		if err != nil && (n == 0 || !errors.Is(err, io.EOF)) { // a body that has ended says so again
			t.finish(err)
		}
	}
}

// give lets the client take its time, but not longer than the reservation lives: a charge that comes after the
// lease is a charge lost. The server's own deadline is for whole responses.
func (t *tap) give() {
	t.given = time.Now()
	until := t.given.Add(t.g.set.ClientTimeout)
	if lease := t.x.deadline.Add(t.g.set.LeaseMargin / 2); t.end == nil && t.x.priced() && until.After(lease) {
		until = lease
	}
	if t.x.client != nil {
		_ = t.x.client.SetWriteDeadline(until)
	}
}

func (t *tap) taken() {
	if !t.given.IsZero() {
		t.blocked += time.Since(t.given)
		t.given = time.Time{}
	}
}

// finish settles by how the backend's body ended.
func (t *tap) finish(err error) {
	g, x := t.g, t.x
	var s settled
	var p *problem
	t.end = io.EOF
	switch {
	case errors.Is(err, io.EOF):
		g.backend.OK()
		x.tellStatus(t.resp.StatusCode())
		s, p = t.settle()
	case x.priced() && t.blocked >= g.set.UpstreamTimeout/clientShare:
		// The backend could not send because the client did not read. A refund would be for the asking.
		g.log.Debug().Str("error", unquoted(err)).Str("request_id", x.requestID()).Dur("client", t.blocked).
			Msg("client read too slowly")
		x.tell(errNotTried)
		s, p = t.settle()
		t.end = errWithheld
	default:
		p = g.upstreamFailed(x, err, true)
		s = g.release(x)
	}
	if p != nil {
		t.end, x.outcome = errWithheld, string(p.code)
	}
	if errors.Is(t.end, errWithheld) {
		t.hold.drop()
	}
	if x.priced() {
		x.setCredits("X-Credits-Charged", s.charged)
		x.remainingHeader(s)
	}
}

// settle charges for what the status says was delivered.
func (t *tap) settle() (settled, *problem) {
	g, x := t.g, t.x
	if !x.priced() {
		x.outcome = outcomeFree
		return settled{}, nil
	}
	units, readable := x.op.Delivered(x.quote, t.resp.StatusCode(), nil)
	amount := x.quote.Charge(units)
	if !readable || amount == 0 {
		return g.release(x), nil
	}
	return g.commit(x, units, amount)
}

// Close is called once, by fasthttp, whatever happened. A client that went away changes nothing: the backend's work
// is awaited and settled as it ends.
func (t *tap) Close() error {
	t.taken()
	if t.end == nil {
		_, err := io.Copy(io.Discard, &t.x.carrier)
		if err == nil {
			err = io.EOF
		}
		t.finish(err)
	}
	t.x.carrier.close()
	fasthttp.ReleaseResponse(t.resp)
	t.g.end(t.x)
	t.g.recycle(t.x)
	t.x, t.resp = nil, nil // they serve other requests from here
	return nil
}
