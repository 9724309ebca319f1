package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// The JSON reader takes from a document what a shape wants and checks the grammar of the rest without keeping it.
// It is stricter than other readers on purpose: where two of them could see different values, it sees none.

// Bounds of a document.
const (
	depthMax = 64
	textMax  = 1024 // bytes of a text that is read, and of a name with escapes beside priced ones
)

// counted is a list of which only the length matters.
type counted []struct{}

// scanner reads one document. The first mistake stops it.
type scanner struct {
	b        []byte
	i        int
	depth    int
	elements int
	lax      bool // a response: other spellings beside a name, fractions and negative numbers are allowed
	mem      *memory
	err      *InputError
}

// readJSON reads what sh wants from b into m's maps.
func readJSON(b []byte, sh *shape, lax bool, m *memory) (any, *InputError) {
	s := scanner{b: b, lax: lax, mem: m}
	s.space()
	v := s.value(sh)
	if s.space(); s.err == nil && s.i < len(b) {
		s.malformed("text after the end")
	}
	return v, s.err
}

// failf stops the scan; the first mistake counts.
func (s *scanner) failf(kind error, param, format string, args ...any) {
	if s.err == nil {
		s.err = &InputError{Err: kind, Param: param, Detail: fmt.Sprintf(format, args...)}
	}
	s.i = len(s.b)
}

func (s *scanner) malformed(why string) {
	s.failf(ErrInvalid, "", "The body is not valid JSON at byte %d: %s.", min(s.i, len(s.b)), why)
}

// peek is the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// value reads the next value: nil where nothing is wanted, and for null.
func (s *scanner) value(sh *shape) any {
	if !sh.wanted() {
		s.skip()
		return nil
	}
	switch c := s.peek(); {
	case c == 'n':
		s.literal("null")
		return nil
	case sh.presentOnly():
		return s.presence(c)
	case c == '{' && len(sh.fields) > 0:
		return s.object(sh)
	case c == '[' && sh.list:
		return s.array(sh)
	case c == '{' || c == '[' || !sh.scalar:
		from := s.i
		if s.skip(); s.err == nil {
			s.i = from
			s.failf(ErrInvalid, sh.param, "%s must be %s.", sh.param, sh.wants())
		}
		return nil
	case c == '"':
		return s.text(sh)
	case c == 't':
		s.literal("true")
		return true
	case c == 'f':
		s.literal("false")
		return false
	}
	return s.number(sh)
}

// presence is "" for an empty text or list, true for any other value, which is not read.
func (s *scanner) presence(first byte) any {
	from := s.i
	s.skip()
	raw := s.b[from:s.i]
	if first == '"' && len(raw) == 2 || first == '[' && len(bytes.TrimSpace(raw[1:max(1, len(raw)-1)])) == 0 {
		return ""
	}
	return true
}

// object reads the wanted names of an object. A wanted name may be there once, and in no other spelling: readers
// differ in which of two they take, and some ignore case.
func (s *scanner) object(sh *shape) map[string]any {
	out := s.mem.object(len(sh.fields))
	var seen uint32 // a bit for each of fieldsMax
	s.enter()
	for first := true; s.next('}', first); first = false {
		key := s.key()
		if s.space(); s.peek() != ':' {
			s.malformed("a name must be followed by a colon")
			return nil
		}
		s.i++
		s.space()
		i := s.find(sh, key)
		if i < 0 {
			s.skip()
			continue
		}
		f := sh.fields[i]
		if seen&(1<<i) != 0 {
			s.failf(ErrAmbiguous, f.param, "%s is there twice; send it once.", f.param)
			return nil
		}
		seen |= 1 << i
		if v := s.value(f.shape); v != nil {
			out[f.name] = v
		}
	}
	s.leave()
	return out
}

// find is the index of the wanted field that a key names, -1 if it names none.
func (s *scanner) find(sh *shape, key []byte) int {
	for i := range sh.fields {
		if string(key) == sh.fields[i].name {
			return i
		}
	}
	if s.lax {
		return -1
	}
	for i := range sh.fields {
		if f := sh.fields[i]; variant(key, f.name) {
			s.failf(ErrAmbiguous, f.param, "%s is also sent as %s; send it once, as %q.", f.param, show(string(key)), f.name)
			return -1
		}
	}
	return -1
}

// array reads a list, or counts it where nothing is wanted of its elements.
func (s *scanner) array(sh *shape) any {
	var out []any
	n := 0
	s.enter()
	for first := true; s.next(']', first); first = false {
		if n++; n > intMax {
			s.failf(ErrInvalid, sh.param, "%s has more than %d elements.", sh.param, intMax)
			return nil
		}
		if !sh.elem.wanted() {
			s.skip()
			continue
		}
		if s.elements++; s.elements > elementsMax {
			s.failf(ErrInvalid, sh.param, "%s has too many elements; %d are read at most.", sh.param, elementsMax)
			return nil
		}
		out = append(out, s.value(sh.elem))
	}
	s.leave()
	if !sh.elem.wanted() {
		return s.mem.list(n)
	}
	if out == nil {
		out = []any{} // an empty list is not an absent one
	}
	return out
}

func (s *scanner) enter() {
	s.i++
	if s.depth++; s.depth > depthMax {
		s.malformed(fmt.Sprintf("more than %d levels deep", depthMax))
	}
}

func (s *scanner) leave() { s.depth-- }

// next moves to the next element before end and reports whether there is one.
func (s *scanner) next(end byte, first bool) bool {
	s.space()
	switch c := s.peek(); {
	case s.err != nil:
		return false
	case c == end:
		s.i++
		return false
	case first:
		return true
	case c != ',':
		s.malformed(fmt.Sprintf("expected a comma or %q", string(end)))
		return false
	}
	s.i++
	s.space()
	return true
}

// key reads a name beside wanted ones.
func (s *scanner) key() []byte {
	if s.peek() != '"' {
		s.malformed("expected a name in quotes")
		return nil
	}
	raw, escaped := s.quoted()
	switch {
	case s.err != nil:
		return nil
	case !escaped:
		return raw[1 : len(raw)-1]
	case len(raw) > textMax:
		s.failf(ErrInvalid, "", "The body has a name of %d bytes beside priced ones; at most %d are read.", len(raw), textMax)
		return nil
	}
	return []byte(s.unquote(raw))
}

// text reads a wanted text.
func (s *scanner) text(sh *shape) any {
	raw, escaped := s.quoted()
	switch {
	case s.err != nil:
		return nil
	case len(raw) > textMax:
		s.failf(ErrInvalid, sh.param, "%s has %d bytes; at most %d are read.", sh.param, len(raw), textMax)
		return nil
	case !utf8.Valid(raw):
		s.failf(ErrInvalid, sh.param, "%s is not UTF-8 text.", sh.param)
		return nil
	case escaped:
		return s.unquote(raw)
	}
	return s.mem.text(raw[1 : len(raw)-1])
}

// unquote resolves the escapes of a text whose grammar was checked.
func (s *scanner) unquote(raw []byte) (v string) {
	if err := json.Unmarshal(raw, &v); err != nil {
		s.malformed(err.Error())
	}
	return v
}

// number reads a wanted number. A price is whole numbers, written as such: 2.0, 1e1 and "2" are 2 to some readers
// and an error to others.
func (s *scanner) number(sh *shape) any {
	raw := s.digits()
	if s.err != nil {
		return nil
	}
	if n, ok := wholeNumber(raw); ok {
		return n
	}
	if s.lax {
		if f, err := strconv.ParseFloat(string(raw), 64); err == nil && math.Abs(f) <= responseMax {
			return f
		}
	}
	s.failf(ErrInvalid, sh.param, "%s is %s; write a whole number from 0 to %d, without sign, point or exponent.",
		sh.param, clip(string(raw)), intMax)
	return nil
}
