package policy

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// Analysis walks an expression once, at load, and answers three questions: what does it read (so that nothing else
// is decoded), can it be evaluated within bounds, and between which numbers does its result lie (so that a
// request's price has a known maximum and no product can overflow). What it does not know, it refuses.

// kind is a set of what a value may be.
type kind uint8

const (
	kindNumber kind = 1 << iota
	kindText        // literal text, or a string from JSON
	kindSent        // text from form, query, header or path: never a number, whatever it looks like
	kindTruth
	kindNil
	kindList
	kindFiles // files of a multipart body under one name
	kindTable // a {…} or […] written in the policy
)

const kindJSON = kindNumber | kindText | kindTruth | kindNil | kindList

// Bounds of numbers. What leaves exactMax, where int64 and float64 are both exact, could wrap around or lose a unit
// and is refused at load; so the product of any two numbers of a request is allowed, that of three needs a min.
const (
	intMax      = 1<<26 - 1 // read from a request
	responseMax = 1 << 44   // read from a response, either sign: it may hold times and byte counts
	exactMax    = 1<<53 - 1 // every intermediate result
)

// elementsMax bounds the elements of a list that an expression walks; one that is only counted is not bounded.
const elementsMax = 100_000

// value is what analysis knows about a part of an expression. lo > hi means that it is no number.
type value struct {
	kind   kind
	lo, hi float64
	at     []*shape // where in the documents it may come from
	elem   *value   // of a list that is not from a document, and of a table: what it holds
	name   string   // for messages: query.n
}

func none(k kind) value           { return value{kind: k, lo: math.Inf(1), hi: math.Inf(-1)} }
func number(lo, hi float64) value { return value{kind: kindNumber, lo: lo, hi: hi} }

func (v value) isNumber() bool { return v.lo <= v.hi }

// or is a value that is one of the two.
func (v value) or(w value) value {
	out := value{
		kind: v.kind | w.kind, lo: min(v.lo, w.lo), hi: max(v.hi, w.hi),
		at: append(slices.Clone(v.at), w.at...), elem: v.elem, name: v.name,
	}
	switch {
	case v.elem != nil && w.elem != nil:
		e := v.elem.or(*w.elem)
		out.elem = &e
	case v.elem == nil:
		out.elem = w.elem
	}
	if out.name == "" {
		out.name = w.name
	}
	return out
}

// ref is one name that an expression reads. Those read without a fallback are named when the result is empty.
type ref struct {
	source string
	path   []string
	must   bool // there is no fallback
	either bool // the fallback is another name, which has none
}

func (r ref) String() string { return r.source + "." + strings.Join(r.path, ".") }

// analysis is the state of one walk.
type analysis struct {
	needs    *needs
	response bool // the name response is known here
	slots    bool // the name slots is known here
	refs     []ref
	vars     map[string]value
	pointer  *value // what # and .name mean inside a predicate
	optional int    // depth of places where absence is handled
	reads    bool   // something of the request or response is read
	err      *exprError
}

// exprError is a mistake in an expression; at counts characters from its start.
type exprError struct {
	at     int
	detail string
}

func (a *analysis) failf(n ast.Node, format string, args ...any) value {
	if a.err == nil {
		a.err = &exprError{at: n.Location().From, detail: fmt.Sprintf(format, args...)}
	}
	return none(0)
}

func (a *analysis) visit(n ast.Node) value {
	switch n := n.(type) {
	case *ast.NilNode:
		return none(kindNil)
	case *ast.IntegerNode:
		return a.literal(n, float64(n.Value))
	case *ast.FloatNode:
		return a.literal(n, n.Value)
	case *ast.BoolNode:
		return none(kindTruth)
	case *ast.StringNode:
		return none(kindText)
	case *ast.IdentifierNode:
		return a.identifier(n)
	case *ast.PointerNode:
		return a.predicatePointer(n)
	case *ast.MemberNode:
		return a.member(n)
	case *ast.ChainNode:
		a.optional++
		defer func() { a.optional-- }()
		return a.visit(n.Node)
	case *ast.UnaryNode:
		return a.unary(n)
	case *ast.BinaryNode:
		return a.binary(n)
	case *ast.ConditionalNode:
		a.scalar(n.Cond, a.visit(n.Cond))
		return a.visit(n.Exp1).or(a.visit(n.Exp2))
	case *ast.VariableDeclaratorNode:
		return a.declare(n)
	case *ast.ArrayNode, *ast.MapNode:
		return a.table(n)
	case *ast.BuiltinNode:
		return a.builtin(n)
	case *ast.CallNode:
		return a.call(n)
	}
	return a.failf(n, "uses %s, which prices do not need; known are names, arithmetic, comparisons, ?:, ?? and %s",
		strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", n), "*ast."), "Node"), functions)
}

func (a *analysis) literal(n ast.Node, v float64) value {
	if math.Abs(v) > intMax {
		return a.failf(n, "%v is larger than %d", n, intMax)
	}
	text := strconv.FormatFloat(v, 'f', -1, 64)
	if whole, frac, _ := strings.Cut(text, "."); len(frac) > 3 && !a.response {
		return a.failf(n, "%s has %s decimals; write at most three, such as %s.%s", text, count(len(frac)), whole, frac[:3])
	}
	return number(v, v)
}

// identifier is a variable, or a document as a whole.
func (a *analysis) identifier(n *ast.IdentifierNode) value {
	if v, ok := a.vars[n.Value]; ok {
		return v
	}
	switch n.Value {
	case "body":
		return a.document("body", &a.needs.body)
	case "response":
		if a.response {
			return a.document("response", &a.needs.response)
		}
	case "slots":
		if a.slots {
			a.reads = true
			return number(0, SlotsMax)
		}
	case "units":
		if a.response {
			return number(1, unitsMax)
		}
	}
	return a.failf(n, "%s cannot be used as a whole; name what is meant, such as %s.n", n.Value, n.Value)
}

func (a *analysis) document(name string, root **shape) value {
	a.reads = true
	if *root == nil {
		*root = &shape{param: name}
	}
	return a.from(*root)
}

// from is the value at a place in a document.
func (a *analysis) from(s *shape) value {
	v := value{kind: kindJSON, lo: 0, hi: intMax, at: []*shape{s}, name: s.param}
	if strings.HasPrefix(s.param, "response") {
		v.lo, v.hi = -responseMax, responseMax
	}
	return v
}

func (a *analysis) predicatePointer(n *ast.PointerNode) value {
	switch {
	case a.pointer == nil:
		return a.failf(n, "# has no meaning outside a list function")
	case n.Name == "":
		return *a.pointer
	case n.Name == "index":
		return number(0, elementsMax)
	}
	return a.failf(n, "#%s is not known; use # or #index", n.Name)
}

func (a *analysis) declare(n *ast.VariableDeclaratorNode) value {
	if a.vars == nil {
		a.vars = map[string]value{}
	}
	a.vars[n.Name] = a.visit(n.Value)
	defer delete(a.vars, n.Name)
	return a.visit(n.Expr)
}

const noTable = "a table has no value for most numbers of slots; write conditions, such as slots > 100 ? 500 : slots * 10"

// table is a map or list written in the policy; what it holds is known by its values.
func (a *analysis) table(n ast.Node) value {
	if a.slots {
		return a.failf(n, noTable)
	}
	held := none(kindNil)
	add := func(n ast.Node) {
		v := a.visit(n)
		a.scalar(n, v)
		held = held.or(value{kind: v.kind, lo: v.lo, hi: v.hi})
	}
	switch n := n.(type) {
	case *ast.ArrayNode:
		for _, e := range n.Nodes {
			add(e)
		}
	case *ast.MapNode:
		for _, p := range n.Pairs {
			if pair, ok := p.(*ast.PairNode); ok {
				a.scalar(pair.Key, a.visit(pair.Key))
				add(pair.Value)
			}
		}
	}
	out := none(kindTable)
	out.elem = &held
	return out
}

// scalar says that v is used as a plain value.
func (a *analysis) scalar(n ast.Node, v value) {
	for _, s := range v.at {
		if s.depth == 0 && s.param == "body" {
			a.failf(n, "body cannot be used as a whole; name what is meant, such as body.n")
		}
		s.scalar = true
	}
	if v.kind&kindFiles != 0 {
		a.failf(n, "%s is a list of files; count it with len(%s)", v.name, v.name)
	}
	if v.kind == kindTable || v.kind == kindList {
		a.failf(n, "a list or table has no single value; pick one from it")
	}
}

// seen says that only the presence of v matters.
func (a *analysis) seen(v value) {
	for _, s := range v.at {
		s.present = true
	}
}

// listed says that v is used as a list, and returns what its elements are.
func (a *analysis) listed(n ast.Node, v value) value {
	out := none(kindNil)
	if v.elem != nil {
		out = *v.elem
	}
	for _, s := range v.at {
		e := s.element()
		if e == nil {
			return a.failf(n, "reaches more than %d levels deep", pathMax)
		}
		out = out.or(a.from(e))
	}
	if len(v.at) == 0 && v.kind&(kindList|kindTable) == 0 {
		return a.failf(n, "%s is not a list", n)
	}
	return out
}
