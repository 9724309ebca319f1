package gateway

import (
	"iter"
	"net/netip"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"creditgate/meter"
	"creditgate/meter/policy"
)

// exchange is one HTTP request on its way through the gateway. Every string in it is a copy: fasthttp reuses the
// memory of a request for the next one on the connection, and a retained alias would charge another account.
type exchange struct {
	ctx     *fasthttp.RequestCtx
	client  *clientConn // nil in tests without our listener
	arrived time.Time
	ahead   time.Duration // of a test clock; ids are of the moved time
	peer    netip.Addr

	head                        head     // gone when the handler returns
	method, target, path, query string   // target is path and query as they came
	authority                   string   // of a target in absolute form, else empty: then Host names it
	id                          meter.ID // of this HTTP request; the reservation's, once there is one
	idText, reservationText     string   // made on first use

	who    Identity
	policy *policy.Policy
	op     *policy.Operation // nil for an unmatched route that passes
	params policy.Params
	view   policy.View
	quote  policy.Quote
	agreed *policy.UnitPrice // the negotiated price that quote is at, nil for the policy's
	key    *meter.IdempotencyKey

	out      *fasthttp.Request         // to the backend; its body buffer receives the client's body
	outHead  iter.Seq2[[]byte, []byte] // the header lines of out
	carrier  carrier                   // the backend's answer, while it is read
	bodyRead bool                      // nothing of the request is left on the connection
	own      bool                      // a route of the gateway itself

	reserve   meter.Reserve      // what was asked; zero for a free request
	held      meter.Reservation  // the answer
	answered  *meter.Reservation // the Idempotency-Key's request was charged already, by this one
	streaming bool               // the response outlives the handler; its end ends the exchange
	deadline  time.Time          // monotonic; the backend must have answered
	settleBy  time.Time          // zero until the settlement begins
	route     route              // backend chosen, its breaker to be told
	upstream  time.Duration      // spent waiting for the backend
	outcome   string             // for metrics and the log
}

// newExchange makes what one request after another uses: everything else in an exchange is new for each.
func newExchange() any {
	out := &fasthttp.Request{}
	return &exchange{out: out, outHead: out.Header.All()}
}

func (g *Gateway) begin(ctx *fasthttp.RequestCtx) *exchange {
	x, _ := g.exchanges.Get().(*exchange) // newExchange makes no others
	x.ctx, x.arrived, x.ahead, x.method = ctx, time.Now(), g.clock.Offset(), methodName(ctx.Method())
	if c, ok := ctx.Conn().(*clientConn); ok {
		x.client, x.peer = c, c.peer
		c.begin()
	} else if a, ok := netip.AddrFromSlice(ctx.RemoteIP()); ok {
		x.peer = a.Unmap()
	}
	x.target = x.client.copyTarget(ctx.Request.Header.RequestURI())
	x.path, x.query, _ = strings.Cut(x.target, "?")
	return x
}

// recycle lets another request have x. Nobody may know it any more: where a handler panicked, somebody may.
func (g *Gateway) recycle(x *exchange) {
	x.out.Reset()
	*x = exchange{out: x.out, outHead: x.outHead}
	g.exchanges.Put(x)
}

// methodName is a copy of b, of the usual methods one that everybody shares.
func methodName(b []byte) string {
	for _, m := range [...]string{
		fasthttp.MethodPost, fasthttp.MethodGet, fasthttp.MethodHead, fasthttp.MethodPut, fasthttp.MethodPatch,
		fasthttp.MethodDelete, fasthttp.MethodOptions,
	} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// requestID is this request's id in text; made on first use, unless the reservation gave one.
func (x *exchange) requestID() string {
	if x.id.IsZero() {
		x.id = meter.NewID(x.arrived.Add(x.ahead))
	}
	switch {
	case x.idText != "":
	case x.id == x.reserve.ID.ID:
		text := x.reservationID() // ends with it
		x.idText = text[len(text)-idLen:]
	default:
		x.idText = x.id.String()
	}
	return x.idText
}

// idLen is the length of an id's text.
const idLen = 36

// reservationID is the reservation's id in text.
func (x *exchange) reservationID() string {
	if x.reservationText == "" {
		x.reservationText = x.reserve.ID.String()
	}
	return x.reservationText
}

// reservedAs makes the reservation's id the request's own.
func (x *exchange) reservedAs(id meter.ReservationID) {
	x.id, x.reserve.ID = id.ID, id
	x.idText, x.reservationText = "", ""
}

// operation is the metric label and the entry's operation.
func (x *exchange) operation() string {
	if x.op == nil {
		return ""
	}
	return x.op.Name
}

// readHead reads the head strictly, and the target.
func (x *exchange) readHead() (p *problem) {
	if x.head, p = readHead(&x.ctx.Request.Header); p != nil {
		closeAfter(x.ctx)
		return p
	}
	if x.head.close {
		x.ctx.Response.SetConnectionClose()
	}
	return x.checkTarget()
}

// checkTarget refuses a request whose target can be read in another way, so that what is priced, what is forwarded and
// what the backend reads are the same bytes.
func (x *exchange) checkTarget() *problem {
	if x.method == fasthttp.MethodConnect || x.method == fasthttp.MethodTrace {
		closeAfter(x.ctx) // what follows a CONNECT may be anything
		return &problem{code: codeInvalid, detail: x.method + " is not served here"}
	}
	if !strings.HasPrefix(x.target, "/") {
		authority, target, ok := originForm(x.target)
		if !ok {
			closeAfter(x.ctx)
			return malformedHead("the target is neither a path nor an http URL with a host")
		}
		x.authority, x.target = authority, target
		x.path, x.query, _ = strings.Cut(target, "?")
	}
	if !canonicalPath(x.path) {
		return &problem{code: codeAmbiguousPrice, detail: "the path is not in its one plain spelling: send it without " +
			"//, /./, /../, ; or needless percent-encoding, and starting with /"}
	}
	if !plainQuery(x.query) {
		return &problem{code: codeAmbiguousPrice, detail: "the query contains ; or a byte that must be percent-encoded"}
	}
	return nil
}

// canonicalPath reports whether the path, as sent, has no other spelling: absolute, no empty or dot segment, no
// ';' parameters, no backslash, and percent-encoding only of bytes that need it, with upper-case digits. An encoded
// '/', '\', '.', ';', '%' or control byte is never accepted: a backend that decodes twice would see another path.
func canonicalPath(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	segment := 0 // where the current segment starts
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '/':
			if i > 0 && !plainSegment(p[segment:i]) {
				return false
			}
			segment = i + 1
		case c == '%':
			if !neededEscape(p[i:]) {
				return false
			}
			i += 2
		case !pathByte(c):
			return false
		}
	}
	return segment == len(p) || plainSegment(p[segment:]) // one trailing slash is a spelling of its own
}

func plainSegment(s string) bool { return s != "" && s != "." && s != ".." }

// pathByte reports whether RFC 3986 lets c stand in a path segment, ';' excepted.
func pathByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("-._~!$&'()*+,=:@", c) >= 0
}

// neededEscape reports whether s begins with a percent-encoding of a byte that may not stand by itself.
func neededEscape(s string) bool {
	if len(s) < 3 {
		return false
	}
	hi, lo := upperHex(s[1]), upperHex(s[2])
	if hi < 0 || lo < 0 {
		return false
	}
	c := byte(hi<<4 | lo)
	return c >= ' ' && c != 0x7f && !pathByte(c) && strings.IndexByte(`/\;%`, c) < 0
}

func upperHex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// plainQuery refuses what parsers disagree on: ';' as a separator, and bytes that may not stand in a query.
func plainQuery(q string) bool {
	for i := range len(q) {
		if c := q[i]; c <= ' ' || c >= 0x7f || c == ';' || c == '#' {
			return false
		}
	}
	return true
}
