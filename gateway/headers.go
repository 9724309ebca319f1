package gateway

import (
	"bytes"
	"iter"
	"strings"

	"github.com/valyala/fasthttp"
)

// Header names are compared in fasthttp's canonical form, which both sides of the gateway normalise to.

// hopByHop are the fields of one connection (RFC 9110 §7.6.1), and those that framing writes anew.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization", "Http2-Settings", "Content-Length", "Expect":
		return true
	}
	return false
}

// connectionLists are the values of all Connection lines. PeekAll shows only "close" once that stands on any of them.
func connectionLists(lines iter.Seq2[[]byte, []byte]) (lists [][]byte) {
	for k, v := range lines {
		if string(k) == "Connection" {
			lists = append(lists, v)
		}
	}
	return lists
}

// listed reports whether a Connection header's list names the field.
func listed(connection [][]byte, name []byte) bool {
	for _, line := range connection {
		for field := range bytes.SplitSeq(line, []byte(",")) {
			if bytes.EqualFold(bytes.TrimSpace(field), name) {
				return true
			}
		}
	}
	return false
}

// consumed are request fields that the gateway uses up or writes anew. Fields with an underscore go too: CGI-like
// backends cannot tell X_Credits_Reservation from X-Credits-Reservation.
func (g *Gateway) consumed(name string) bool {
	switch name {
	case "Host", "Authorization", "X-Api-Key", "X-Request-Id", "Forwarded", "X-Real-Ip", "Via", "X-Actor":
		return true
	case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Original-Uri",
		"X-Rewrite-Url", "X-Rewrite-Uri": // a framework would serve another route than the one that was priced
		return true
	}
	return name == g.auth.accountHeader || strings.HasPrefix(name, "X-Credits-") ||
		strings.HasPrefix(name, "X-Forwarded-") || strings.IndexByte(name, '_') >= 0
}

// passHeaders copies what the backend may see of the client's head, and says where the request came from. It is done
// before pricing, and the price is read from the copy: a client can have any field removed here by naming it in
// Connection, a priced one too.
func (g *Gateway) passHeaders(x *exchange) {
	in, out := &x.ctx.Request.Header, &x.out.Header
	out.DisableNormalizing() // of names that were normalised when they were read, or are written so below
	connection := connectionLists(in.All())
	for k, v := range in.All() {
		name := string(k) // does not escape: no allocation
		if hopByHop(name) || g.consumed(name) || (len(connection) > 0 && listed(connection, k)) {
			continue
		}
		out.AddBytesKV(k, v)
	}
	out.Set("Via", viaName(in.Peek("Via"), in.Protocol()))
	g.forwarded(x)
}

// requestHeaders adds to x.out's head what the gateway says itself.
func (g *Gateway) requestHeaders(x *exchange) {
	out := &x.out.Header
	out.SetNoDefaultContentType(true) // fasthttp would call an untyped body octet-stream
	out.SetMethod(x.method)
	out.SetRequestURI(x.target)
	// The client's key ends here: a backend that knew it could answer one account with another's work.
	out.Del("Idempotency-Key")
	if !x.priced() {
		out.Set("X-Request-Id", x.requestID())
		return
	}
	id := x.reservationID()
	out.Set("X-Request-Id", id)
	if g.set.UpstreamIdempotencyKey {
		out.Set("Idempotency-Key", id)
	}
	if x.op.NeedsResponse() {
		out.Set("Accept-Encoding", "identity") // what is counted must be readable
		if bytes.Contains(bytes.ToLower(out.Peek("Accept")), []byte("text/")) {
			out.Del("Accept") // a text passes as a failure: a client must not choose it for its result
		}
	}
}

// forwarded says where the request came from. What an untrusted peer claims is dropped, not extended.
func (g *Gateway) forwarded(x *exchange) {
	in, out, host := &x.ctx.Request.Header, &x.out.Header, x.ctx.Request.Header.Host()
	if x.authority != "" { // Host is ignored then, as RFC 9112 §3.2.2 wants it
		host = []byte(x.authority)
	}
	proto := "http"
	if x.ctx.IsTLS() {
		proto = "https"
	}
	if !g.auth.trusts(x.peer) {
		out.Set("X-Forwarded-For", x.peerText())
		out.Set("X-Forwarded-Proto", proto)
		out.SetBytesV("X-Forwarded-Host", host)
		return
	}
	from := x.peerText()
	if before := in.Peek("X-Forwarded-For"); len(before) > 0 {
		from = string(before) + ", " + from
	}
	if v := in.Peek("X-Forwarded-Proto"); len(v) > 0 {
		proto = string(v)
	}
	if v := in.Peek("X-Forwarded-Host"); len(v) > 0 {
		host = v
	}
	out.Set("X-Forwarded-For", from)
	out.Set("X-Forwarded-Proto", proto)
	out.SetBytesV("X-Forwarded-Host", host)
}

func viaName(before, protocol []byte) string {
	hop := "1.1 creditgate"
	if bytes.HasSuffix(protocol, []byte("1.0")) {
		hop = "1.0 creditgate"
	}
	if len(before) > 0 {
		return string(before) + ", " + hop
	}
	return hop
}

func (x *exchange) peerText() string {
	if x.client != nil {
		return x.client.peerText
	}
	return x.peer.String()
}

// responseHeaders copies the backend's head to the client's, without what belongs to a connection or to the gateway.
// Lines keep their order, which says something among those of one name: fasthttp's Del would change it.
func (g *Gateway) responseHeaders(to *fasthttp.Response, from *fasthttp.Response) {
	to.Header.DisableNormalizing() // names were normalised when they were read
	defer to.Header.EnableNormalizing()
	connection := connectionLists(from.Header.All())
	for k, v := range from.Header.All() {
		name := string(k)
		if hopByHop(name) || ownResponseHeader(name) || (len(connection) > 0 && listed(connection, k)) {
			continue
		}
		to.Header.AddBytesKV(k, g.upstreams.relocated(name, v))
	}
	to.SetStatusCode(from.StatusCode())
	if from.SkipBody { // a HEAD tells the length of what is not there
		to.Header.SetContentLength(from.Header.ContentLength())
	}
}

// ownResponseHeader names the fields that only the gateway may say. Alt-Svc would name other ports of the backend, which
// are not the gateway's.
func ownResponseHeader(name string) bool {
	return name == "X-Request-Id" || name == "Alt-Svc" || name == "Idempotent-Replayed" || strings.HasPrefix(name, "X-Credits-")
}
