package policy

import "slices"

// shape says what expressions want from one place in a JSON document. Readers follow it and skip all else, so that
// the cost of pricing does not grow with what a request carries besides.
type shape struct {
	param   string // how messages call the place: body.photos
	scalar  bool   // a text, number or truth value is read
	list    bool   // a list is counted or walked
	present bool   // only whether it is there matters
	fields  []field
	elem    *shape // what is wanted from each element of the list
	depth   int
}

type field struct {
	name string
	*shape
}

// Bounds of what expressions may name; a policy beyond them is refused.
const (
	fieldsMax = 32 // names at one level: reading tracks them in a bit set
	pathMax   = 16 // levels of names
)

// field is the shape under a name, made on first use. It is nil beyond the bounds.
func (s *shape) field(name string) *shape {
	if i := slices.IndexFunc(s.fields, func(f field) bool { return f.name == name }); i >= 0 {
		return s.fields[i].shape
	}
	if len(s.fields) == fieldsMax || s.depth == pathMax {
		return nil
	}
	f := &shape{param: s.param + "." + name, depth: s.depth + 1}
	s.fields = append(s.fields, field{name, f})
	return f
}

// element is the shape of the elements, made on first use. It is nil beyond the bounds.
func (s *shape) element() *shape {
	s.list = true
	if s.elem == nil && s.depth < pathMax {
		s.elem = &shape{param: s.param + "[]", depth: s.depth + 1}
	}
	return s.elem
}

// wanted reports whether anything at all is read here.
func (s *shape) wanted() bool {
	return s != nil && (s.scalar || s.list || s.present || len(s.fields) > 0)
}

// presentOnly reports whether the value itself is not read.
func (s *shape) presentOnly() bool { return !s.scalar && !s.list && len(s.fields) == 0 }

// wants is what the message says when a value of another kind stands here.
func (s *shape) wants() string {
	switch {
	case len(s.fields) > 0:
		return "an object"
	case s.list && s.scalar:
		return "a list or a plain value"
	case s.list:
		return "a list"
	}
	return "a plain value"
}

// needs is everything that the expressions of one operation read.
type needs struct {
	body     *shape
	response *shape
	form     []string
	parts    []string
	query    []string
	header   []string
	path     []string
}

// inBody reports whether the request body is read in any form.
func (n *needs) inBody() bool { return n.body.wanted() || len(n.form) > 0 || len(n.parts) > 0 }

// any reports whether anything of the request is read.
func (n *needs) any() bool {
	return n.inBody() || len(n.query) > 0 || len(n.header) > 0 || len(n.path) > 0
}

// text returns the list of names of a source of texts.
func (n *needs) text(source string) *[]string {
	switch source {
	case "form":
		return &n.form
	case "query":
		return &n.query
	case "header":
		return &n.header
	case "path":
		return &n.path
	case "parts":
		return &n.parts
	}
	return nil
}
