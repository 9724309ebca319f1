package policy

import (
	"bytes"
	"strings"
)

// ShowsFailure reports whether a 2xx in which Delivered counts nothing is evidence that the backend delivered nothing, so
// that it may pass to the client without a charge. Evidence is an answer with no body, a text/html or text/plain that is
// not JSON, and a JSON object whose member `error` says something: null, false, 0 and an empty text, list or object do not.
// Any other answer may hold the result in a shape that the `delivered` rule does not expect.
func ShowsFailure(contentType, body []byte) bool {
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return true
	}
	if body[0] == '{' || body[0] == '[' { // JSON, whatever its type says
		return namesError(body)
	}
	kind, _, _ := strings.Cut(string(contentType), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == "text/html" || kind == "text/plain"
}

// namesError reports whether body is a JSON object with an error in it.
func namesError(body []byte) bool {
	s, named := scanner{b: body, lax: true}, false
	if s.peek() != '{' {
		return false
	}
	s.enter()
	for first := true; s.next('}', first); first = false {
		name := s.key()
		if s.space(); s.peek() != ':' {
			s.malformed("a name must be followed by a colon")
		}
		s.i++
		s.space()
		from := s.i
		if s.skip(); s.err == nil && string(name) == "error" {
			named = named || saysSomething(body[from:s.i])
		}
	}
	return named && s.err == nil && s.i == len(body)
}

// saysSomething reports whether a JSON value is not one that backends send for "no error".
func saysSomething(value []byte) bool {
	switch value[0] {
	case '"', '{', '[':
		return len(bytes.TrimSpace(value[1:len(value)-1])) > 0
	}
	word := string(value)
	return word != "null" && word != "false" && word != "0"
}
