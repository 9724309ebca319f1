package gateway

import (
	"bytes"
	"strconv"

	"github.com/valyala/fasthttp"

	"creditgate/meter/policy"
)

// delivered counts the units in a whole answer. An answer that shows that the backend delivered nothing passes with 0. One
// that cannot be counted is withheld: a mistake in the policy's rule would otherwise give every result away.
func (g *Gateway) delivered(x *exchange, resp *fasthttp.Response) (units uint32, _ *problem) {
	body := x.ctx.Response.Body()
	if x.counts(resp) && len(body) > 0 && isEncoded(resp) {
		return 0, g.uncountable(x, resp, "the backend encoded its answer although it was told Accept-Encoding: identity")
	}
	units, counted := x.op.Delivered(x.quote, resp.StatusCode(), body)
	if !counted && !policy.ShowsFailure(resp.Header.ContentType(), body) {
		return 0, g.uncountable(x, resp, "the operation's rule for what was delivered does not fit the backend's answer")
	}
	return units, nil
}

// tooLargeAnswer is the problem of an answer that is too large to be counted, or for an HTTP/1.0 client, which takes no
// chunks.
func (g *Gateway) tooLargeAnswer(x *exchange, resp *fasthttp.Response) *problem {
	why := "the backend's answer is larger than " + strconv.Itoa(g.set.ResponseBufferMax) + " bytes"
	if x.counts(resp) {
		return g.uncountable(x, resp, why)
	}
	return &problem{
		code: codeUpstreamFailed, final: true, answer: newUpstreamAnswer(resp),
		detail: why + ", which an HTTP/1.0 client cannot be sent; nothing was charged",
	}
}

// uncountable is the problem of an answer that is withheld. It is logged, since an operator has to mend the policy or the
// backend.
func (g *Gateway) uncountable(x *exchange, resp *fasthttp.Response, why string) *problem {
	p := &problem{
		code: codeUpstreamUncountable, answer: newUpstreamAnswer(resp),
		detail: why + ", so that the answer cannot be counted and was withheld; nothing was charged",
	}
	g.log.Error().Str("operation", x.op.Name).Str("delivered", x.op.DeliveredRule()).Int("status", p.answer.Status).
		Str("content_type", p.answer.ContentType).Str("request_id", x.requestID()).Str("error", why).
		Msg("answer withheld: its units cannot be counted")
	return p
}

// counts reports whether the charge depends on the answer's body. Only a 2xx is charged.
func (x *exchange) counts(resp *fasthttp.Response) bool {
	return x.priced() && x.op.NeedsResponse() && resp.StatusCode()/100 == 2
}

func isEncoded(resp *fasthttp.Response) bool {
	coding := resp.Header.Peek("Content-Encoding")
	return len(coding) > 0 && !bytes.EqualFold(coding, []byte("identity"))
}
