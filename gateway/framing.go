package gateway

import (
	"bytes"
	"strings"

	"github.com/valyala/fasthttp"
)

// This file is the one strict reading of a request's head. fasthttp takes several heads that another server reads in
// another way. Between two such servers one request can carry a second one, of another account. A head with two readings
// gets 400 here, and the connection is closed.

// head is the part of a header section that says who asks and how. The values are fasthttp's memory: they end with the
// request. fasthttp adds the trailers of a chunked body to the header it hands out, so the values are read before the
// body and nowhere else.
type head struct {
	authorization, apiKey, idempotencyKey, actor []byte // nil if absent

	seen  singletons
	close bool // Connection has close among its options, which fasthttp sees only when it stands alone
}

// singletons are the fields that a request may have once, a bit each.
type singletons uint8

const (
	sawAuthorization singletons = 1 << iota
	sawAPIKey
	sawIdempotencyKey
	sawActor
	sawContentType
	sawContentLength
	sawTransferEncoding
)

// readHead reads the head that fasthttp has parsed already, again from its bytes. A problem ends the connection.
func readHead(in *fasthttp.RequestHeader) (h head, p *problem) {
	if version := string(in.Protocol()); version != "HTTP/1.1" && version != "HTTP/1.0" {
		return h, malformedHead(version + " is not spoken here: send HTTP/1.1")
	}
	for raw := in.RawHeaders(); len(raw) > 0; {
		end := bytes.IndexByte(raw, '\n')
		if end < 1 || raw[end-1] != '\r' {
			return h, malformedHead("a line of the head ends with LF alone: end each line with CR LF")
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		if len(line) == 0 {
			break
		}
		if p := h.readLine(line); p != nil {
			return h, p
		}
	}
	if h.seen&sawTransferEncoding != 0 && h.seen&sawContentLength != 0 {
		return h, malformedHead("the request has Content-Length and Transfer-Encoding: send one of them")
	}
	if host := in.Host(); len(host) > 0 && !validAuthority(host) { // an HTTP/1.0 request may have none
		return h, malformedHead("the Host header does not name a host: send a name or an address, with an optional port")
	}
	return h, nil
}

func malformedHead(detail string) *problem { return &problem{code: codeInvalid, detail: detail} }

// readLine reads one field. The longest name of interest has 17 bytes; the length tells nearly all names apart.
func (h *head) readLine(line []byte) *problem {
	if line[0] == ' ' || line[0] == '\t' {
		return malformedHead("a header is folded over two lines: write it in one")
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok { // fasthttp refuses it before
		return malformedHead("a line of the head has no colon")
	}
	value = bytes.Trim(value, " \t")
	if bytes.IndexByte(name, ' ') >= 0 {
		return malformedHead("a header's name has a blank in it")
	}
	switch len(name) {
	case len("X-Actor"):
		return h.once(name, "X-Actor", sawActor, &h.actor, value)
	case len("X-Api-Key"):
		return h.once(name, "X-Api-Key", sawAPIKey, &h.apiKey, value)
	case len("Connection"):
		if bytes.EqualFold(name, []byte("Connection")) {
			h.close = h.close || listed([][]byte{value}, []byte("close"))
		}
	case len("Content-Type"):
		return h.once(name, "Content-Type", sawContentType, nil, value)
	case len("Authorization"):
		return h.once(name, "Authorization", sawAuthorization, &h.authorization, value)
	case len("Content-Length"):
		return h.once(name, "Content-Length", sawContentLength, nil, value)
	case len("Idempotency-Key"):
		return h.once(name, "Idempotency-Key", sawIdempotencyKey, &h.idempotencyKey, value)
	case len("Transfer-Encoding"):
		if !bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			return nil
		}
		if !bytes.EqualFold(value, []byte("chunked")) {
			return malformedHead("Transfer-Encoding must be chunked")
		}
		return h.once(name, "Transfer-Encoding", sawTransferEncoding, nil, value)
	}
	return nil
}

// once keeps the value of a field that may stand there once, if name is that field.
func (h *head) once(name []byte, want string, bit singletons, into *[]byte, value []byte) *problem {
	if !strings.EqualFold(string(name), want) {
		return nil
	}
	if h.seen&bit != 0 {
		return &problem{code: codeInvalid, param: want, detail: want + " is there twice: send it once"}
	}
	h.seen |= bit
	if into != nil {
		*into = value
	}
	return nil
}

// originForm splits a target in absolute form, such as http://host/path?query, into its authority and the rest, which
// is what a server that is no proxy would have got (RFC 9112 §3.2.2).
func originForm(target string) (authority, rest string, ok bool) {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || (!strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https")) {
		return "", "", false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, rest = rest[:end], rest[end:]
	if rest == "" || rest[0] == '?' {
		rest = "/" + rest
	}
	return authority, rest, validAuthority([]byte(authority))
}

// validAuthority reports whether s is a host name or address with an optional port. RFC 3986 lets more bytes stand in a
// name; no host has them, and parsers disagree on them.
func validAuthority(s []byte) bool {
	host, port := s, []byte(nil)
	if i := bytes.LastIndexByte(s, ':'); i >= 0 && bytes.IndexByte(s[i:], ']') < 0 {
		host, port = s[:i], s[i+1:]
	}
	for i := range port {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	extra := "-._"
	if bytes.HasPrefix(host, []byte("[")) && bytes.HasSuffix(host, []byte("]")) {
		host, extra = host[1:len(host)-1], ":."
	}
	for i := range host {
		if c := host[i]; !isAlphanumeric(c) && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return len(host) > 0
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
