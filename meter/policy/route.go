package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of a match.
const (
	routeMax    = 1024 // characters
	segmentsMax = 32
	paramsMax   = 8
)

// methods are what a match may name.
const methods = "GET HEAD POST PUT PATCH DELETE OPTIONS"

// route is the pattern of a match: a method and literal segments or {parameters}.
type route struct {
	method   string
	path     string
	segments []segment
}

type segment struct {
	text  string // the literal, or the parameter's name
	param bool
}

// parseRoute reads "METHOD /path/{parameter}". The path must be in normal form, since only such paths are matched.
func parseRoute(s string) (route, error) {
	method, path, ok := strings.Cut(s, " ")
	switch {
	case len(s) > routeMax:
		return route{}, fmt.Errorf("has %d characters; %d are the most", len(s), routeMax)
	case !ok || !strings.HasPrefix(path, "/"):
		return route{}, fmt.Errorf("%q must be a method and a path, such as POST /v1/images", s)
	case !slices.Contains(strings.Fields(methods), method):
		return route{}, fmt.Errorf("%q is not a method; write one of %s", method, methods)
	}
	r := route{method: method, path: path}
	for text := range strings.SplitSeq(path[1:], "/") {
		seg, err := parseSegment(text)
		if err != nil {
			if path == "/" {
				return r, nil
			}
			return route{}, err
		}
		if seg.param && slices.Contains(r.params(), seg.text) {
			return route{}, fmt.Errorf("names {%s} twice; give each parameter its own name", seg.text)
		}
		r.segments = append(r.segments, seg)
	}
	if len(r.segments) > segmentsMax || len(r.params()) > paramsMax {
		return route{}, fmt.Errorf("has more than %d segments or %d parameters", segmentsMax, paramsMax)
	}
	return r, nil
}

func parseSegment(s string) (segment, error) {
	switch s {
	case "":
		return segment{}, errors.New("has an empty segment; write single slashes and none at the end")
	case ".", "..":
		return segment{}, fmt.Errorf("has the segment %q; write the path it leads to", s)
	}
	if name, ok := strings.CutPrefix(s, "{"); ok {
		name, ok = strings.CutSuffix(name, "}")
		if !ok || !identifier(name) {
			return segment{}, fmt.Errorf("%q must be a parameter such as {id}: a-z, 0-9 and _, a letter first", s)
		}
		return segment{text: name, param: true}, nil
	}
	for _, c := range s {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-._~!$&'()*+,=:@", c)
		if !ok {
			return segment{}, fmt.Errorf("has the character %q, which a normal path does not; "+
				"write letters, digits and -._~!$&'()*+,=:@, and a parameter as a whole segment", c)
		}
	}
	return segment{text: s}, nil
}

func identifier(s string) bool {
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '_')
		if !ok {
			return false
		}
	}
	return s != ""
}

// params are the names of the parameters in order.
func (r route) params() []string {
	var out []string
	for _, s := range r.segments {
		if s.param {
			out = append(out, s.text)
		}
	}
	return out
}

// overlaps reports whether one request could match both.
func (r route) overlaps(o route) bool {
	if r.method != o.method || len(r.segments) != len(o.segments) {
		return false
	}
	for i, s := range r.segments {
		if t := o.segments[i]; !s.param && !t.param && s.text != t.text {
			return false
		}
	}
	return true
}

// match fills the parameters of a path that the pattern fits. fold compares literals without case.
func (r route) match(path string, p *Params, fold bool) bool {
	rest := path[1:]
	for i, s := range r.segments {
		text, tail, more := strings.Cut(rest, "/")
		if last := i == len(r.segments)-1; more == last {
			return false
		}
		switch {
		case s.param:
			if text == "" {
				return false
			}
			p.values[p.n] = text
			p.n++
		case s.text != text && (!fold || !strings.EqualFold(s.text, text)):
			return false
		}
		rest = tail
	}
	return len(r.segments) > 0 || rest == ""
}

// Params are the path parameters of a match. The zero value has none.
type Params struct {
	op     *Operation
	values [paramsMax]string
	n      int
}

// Get is the value of the parameter {name}.
func (p Params) Get(name string) (value string, ok bool) {
	if p.op == nil {
		return "", false
	}
	i := slices.Index(p.op.params, name)
	if i < 0 || i >= p.n {
		return "", false
	}
	return p.values[i], true
}

// routes finds operations. Paths without parameters are looked up; the others, of which there are few, are tried.
type routes struct {
	static  map[routeKey]*Operation
	pattern []*Operation
}

type routeKey struct{ method, path string }

func newRoutes(ops []*Operation) routes {
	r := routes{static: make(map[routeKey]*Operation, len(ops))}
	for _, o := range ops {
		if len(o.params) == 0 {
			r.static[routeKey{o.Method, o.Path}] = o
		} else {
			r.pattern = append(r.pattern, o)
		}
	}
	return r
}

func (r *routes) match(method, path string) (*Operation, Params, bool) {
	if o, ok := r.static[routeKey{method, path}]; ok {
		return o, Params{op: o}, true
	}
	if !strings.HasPrefix(path, "/") {
		return nil, Params{}, false
	}
	for _, o := range r.pattern {
		p := Params{op: o}
		if o.Method == method && o.route.match(path, &p, false) {
			return o, p, true
		}
	}
	return nil, Params{}, false
}

// resembles reports whether a backend that is lax about case, trailing slashes, ;parameters or the method could take
// the path for an operation's.
func (r *routes) resembles(path string, ops []*Operation) bool {
	if !strings.HasPrefix(path, "/") {
		return true // what is not a path cannot be told apart
	}
	plain := path
	if strings.Contains(path, ";") {
		var b strings.Builder
		for part := range strings.SplitSeq(path[1:], "/") {
			text, _, _ := strings.Cut(part, ";")
			b.WriteString("/" + text)
		}
		plain = b.String()
	}
	plain = "/" + strings.Trim(plain, "/")
	for _, o := range ops {
		var p Params
		if o.route.match(plain, &p, true) {
			return true
		}
	}
	return false
}
