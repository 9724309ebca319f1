package gateway

import (
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"
)

// errWithheld ends a streamed response without its terminating chunk, so that no client takes it for whole.
var errWithheld = errors.New("response withheld: not settled")

// stream passes the backend's body on as it comes and settles before the terminating chunk. What it cost follows as
// a trailer. begun is what was read already.
func (g *Gateway) stream(x *exchange, resp *fasthttp.Response, begun []byte) {
	x.streaming = true
	to := &x.ctx.Response
	responseHeaders(to, resp)
	to.Header.Set("X-Request-Id", x.requestID())
	if x.priced() {
		to.Header.Set("X-Credits-Reservation", x.reserve.ID.String())
		to.Header.Set("X-Credits-Reserved", x.reserve.Amount.String())
		_ = to.Header.SetTrailer("X-Credits-Charged, X-Credits-Remaining") // neither is a forbidden trailer
	}
	if isEventStream(string(resp.Header.ContentType())) {
		to.Header.Set("X-Accel-Buffering", "no") // a proxy in front must not wait for the end either
	}
	to.ImmediateHeaderFlush = true
	to.SetBodyStream(&tap{g: g, x: x, resp: resp, begun: begun}, -1)
}

// tap is a streamed response body. fasthttp reads it to its end, or closes it when the client is gone; either way
// it settles exactly once.
type tap struct {
	g     *Gateway
	x     *exchange
	resp  *fasthttp.Response
	begun []byte
	end   error // set once settled: what Read returns from then on
}

// Read passes bytes on. io.EOF is returned only after the settlement: fasthttp then writes the terminating chunk.
func (t *tap) Read(p []byte) (int, error) {
	if t.end != nil {
		return 0, t.end
	}
	if t.x.client != nil { // the server's own deadline is for whole responses
		_ = t.x.client.SetWriteDeadline(time.Now().Add(t.g.set.ClientTimeout))
	}
	if len(t.begun) > 0 {
		n := copy(p, t.begun)
		t.begun = t.begun[n:]
		return n, nil
	}
	began := time.Now()
	n, err := answerBody{t.resp}.Read(p)
	t.x.upstream += time.Since(began)
	if err == nil || (n > 0 && errors.Is(err, io.EOF)) {
		return n, nil // a body that has ended says so again
	}
	t.finish(err)
	return n, t.end
}

// finish settles by how the backend's body ended.
func (t *tap) finish(err error) {
	g, x := t.g, t.x
	s := settled{}
	switch {
	case !errors.Is(err, io.EOF):
		t.end = errWithheld
		p := g.upstreamFailed(x, err, true)
		s = g.release(x)
		x.outcome = string(p.code)
	case !x.priced():
		t.end, x.outcome = io.EOF, outcomeFree
		x.tellStatus(t.resp.StatusCode())
	default:
		t.end = io.EOF
		x.tellStatus(t.resp.StatusCode())
		units, readable := x.op.Delivered(x.quote, t.resp.StatusCode(), nil)
		amount := x.quote.Charge(units)
		if !readable || amount == 0 {
			s = g.release(x)
			break
		}
		var p *problem
		if s, p = g.commit(x, units, amount); p != nil {
			t.end, x.outcome = errWithheld, string(p.code)
		}
	}
	if x.priced() {
		x.ctx.Response.Header.Set("X-Credits-Charged", s.charged.String())
		if s.known {
			x.ctx.Response.Header.Set("X-Credits-Remaining", s.remaining.String())
		}
	}
}

// Close is called once, by fasthttp, whatever happened. A client that went away changes nothing: the backend's work
// is awaited and settled as it ends.
func (t *tap) Close() error {
	if t.end == nil {
		_, err := io.Copy(io.Discard, answerBody{t.resp})
		if err == nil {
			err = io.EOF
		}
		t.finish(err)
	}
	err := t.resp.CloseBodyStream()
	fasthttp.ReleaseResponse(t.resp)
	t.g.end(t.x)
	return err
}
