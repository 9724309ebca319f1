package gateway

import (
	"errors"
	"io"
	"net"
	"slices"
	"strconv"

	"github.com/valyala/fasthttp"
)

// trustedLength is how much memory a peer gets for merely announcing a length; beyond it, bytes must arrive.
const trustedLength = 256 << 10

// readBody reads the client's body into the buffer that goes to the backend.
func (g *Gateway) readBody(x *exchange) *problem {
	stream := x.ctx.RequestBodyStream()
	if stream == nil {
		x.bodyRead = true
		return nil
	}
	announced := x.ctx.Request.Header.ContentLength()
	buf, whole, err := readAll(x.out.SwapBody(nil), stream, announced, g.set.RequestBodyMax)
	size := len(buf)
	x.out.SwapBody(buf)
	if err == nil && whole && size >= announced && (announced >= 0 || !x.hungUp()) {
		x.bodyRead = true
		return nil
	}
	return g.bodyProblem(err, whole)
}

// bodyProblem says why a body could not be read.
func (g *Gateway) bodyProblem(err error, whole bool) *problem {
	var timeout net.Error
	switch {
	case err == nil && !whole:
		return bodyTooLarge(g.set.RequestBodyMax)
	case errors.As(err, &timeout) && timeout.Timeout():
		return &problem{
			code: codeInvalid, retryAfter: retrySoonSeconds,
			detail: "the body did not arrive within " + g.set.ClientTimeout.String(),
		}
	}
	return &problem{code: codeInvalid, detail: "the body broke off or is not framed correctly"}
}

// hungUp reports whether the client has closed its side. fasthttp takes a body that is cut there for a whole one; a
// whole chunked one is read to its end without the closing being seen.
func (x *exchange) hungUp() bool { return x.client != nil && x.client.eof }

func bodyTooLarge(most int) *problem {
	return &problem{code: codeTooLarge, detail: "the body is larger than " + strconv.Itoa(most) + " bytes"}
}

// readAll reads r to its end into buf's memory. whole is false when there are more than most bytes.
func readAll(buf []byte, r io.Reader, announced, most int) (_ []byte, whole bool, err error) {
	buf = slices.Grow(buf[:0], max(512, min(announced+1, trustedLength)))
	for {
		if len(buf) == cap(buf) {
			more := len(buf) // doubled, but not far beyond what was announced
			if announced >= len(buf) {
				more = min(more, announced+1-len(buf))
			}
			buf = slices.Grow(buf, more)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > most:
			return buf, false, nil
		case err == io.EOF:
			return buf, true, nil
		case err != nil:
			return buf, false, err
		}
	}
}

// drainMax is how much of an unwanted body is read so that the connection can be kept.
const drainMax = 64 << 10

// abandonBody gets rid of a body that nobody read: what is left of it must not be taken for the next request.
func (x *exchange) abandonBody() {
	if x.ctx.Response.ConnectionClose() {
		x.lingerOnClose()
		return
	}
	stream := x.ctx.RequestBodyStream()
	if stream == nil {
		return
	}
	if n := x.ctx.Request.Header.ContentLength(); n >= 0 && n <= drainMax {
		if _, err := io.Copy(io.Discard, stream); err == nil {
			x.bodyRead = true
			return
		}
	}
	x.ctx.Response.SetConnectionClose()
	x.lingerOnClose()
}

// streams reports whether the response is passed on as it comes: events, whose sense is that they are early.
// Where units are counted in the response it must be read first.
func (x *exchange) streams(resp *fasthttp.Response) bool {
	if resp.BodyStream() == nil || (x.priced() && x.op.NeedsResponse()) || !x.streamable(resp) {
		return false
	}
	return isEventStream(string(resp.Header.ContentType()))
}

// streamable reports whether a response could be streamed at all: its units are not counted in it, and the client
// knows chunks, which HTTP/1.0 does not.
func (x *exchange) streamable(resp *fasthttp.Response) bool {
	return !x.counts(resp) && x.ctx.Request.Header.IsHTTP11()
}

func isEventStream(contentType string) bool {
	const events = "text/event-stream"
	return len(contentType) >= len(events) && contentType[:len(events)] == events
}
