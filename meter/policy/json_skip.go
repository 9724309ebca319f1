package policy

import (
	"encoding/binary"
	"math/bits"
)

// This half of the JSON reader checks grammar and keeps nothing.

// skip checks one value and drops it.
func (s *scanner) skip() {
	switch c := s.peek(); c {
	case '{', '[':
		s.enter()
		for first := true; s.next(c+2, first); first = false { // '{'+2 is '}', '['+2 is ']'
			if c == '{' {
				s.name()
			}
			s.skip()
		}
		s.leave()
	case '"':
		s.quoted()
	case 't':
		s.literal("true")
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
	default:
		s.digits()
	}
}

// name skips a name and its colon.
func (s *scanner) name() {
	if s.peek() != '"' {
		s.malformed("expected a name in quotes")
		return
	}
	s.quoted()
	if s.space(); s.peek() != ':' {
		s.malformed("a name must be followed by a colon")
		return
	}
	s.i++
	s.space()
}

func (s *scanner) literal(word string) {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		s.malformed("expected " + word)
		return
	}
	s.i += len(word)
}

// digits checks the grammar of a number and returns its text.
func (s *scanner) digits() []byte {
	from := s.i
	if s.peek() == '-' {
		s.i++
	}
	switch c := s.peek(); {
	case c == '0':
		s.i++
	case c >= '1' && c <= '9':
		s.run()
	default:
		s.malformed("expected a value")
		return nil
	}
	if s.peek() == '.' {
		s.i++
		s.run()
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		s.run()
	}
	return s.b[min(from, s.i):s.i]
}

// run skips one digit or more.
func (s *scanner) run() {
	from := s.i
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.i++
	}
	if s.i == from {
		s.malformed("expected a digit")
	}
}

const (
	everyByte = 0x0101010101010101
	highBits  = 0x8080808080808080
)

// quoted skips a text and returns it with its quotes, and whether it has escapes. It steps over eight bytes at a
// time, because what a priced body carries besides is mostly images in base64.
func (s *scanner) quoted() (raw []byte, escaped bool) {
	from := s.i
	s.i++
	for s.err == nil {
		for s.i+8 <= len(s.b) {
			stop := special(binary.LittleEndian.Uint64(s.b[s.i:]))
			if stop != 0 {
				s.i += bits.TrailingZeros64(stop) / 8
				break
			}
			s.i += 8
		}
		switch c := s.peek(); {
		case s.i >= len(s.b):
			s.malformed("a text has no closing quote")
		case c == '"':
			s.i++
			return s.b[from:s.i], escaped
		case c == '\\':
			escaped = true
			s.escape()
		case c < ' ':
			s.malformed("a text has a control character")
		default:
			s.i++
		}
	}
	return nil, false
}

// special has the high bit set in the lowest byte of w that is a quote, a backslash or a control character. Higher
// bytes may be marked wrongly, after a borrow; the lowest is right.
func special(w uint64) uint64 {
	quote, slash := w^(everyByte*'"'), w^(everyByte*'\\')
	return ((quote-everyByte)&^quote | (slash-everyByte)&^slash | (w-everyByte*' ')&^w) & highBits
}

// escape skips one escape.
func (s *scanner) escape() {
	s.i++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i++
		return
	case 'u':
		for n := 1; n <= 4; n++ {
			if s.i+n >= len(s.b) || !isHex(s.b[s.i+n]) {
				s.malformed("an escape needs four hexadecimal digits")
				return
			}
		}
		s.i += 5
		return
	}
	s.malformed("an escape is not known")
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
