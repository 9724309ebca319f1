package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// functions are all that expressions may call: enough to count and to bound, nothing that reads a clock, builds
// text or grows without limit.
const functions = "len int given count any all none one sum filter map find min max abs ceil floor round lower upper trim"

// member is a.b, a["b"] or a[0].
func (a *analysis) member(n *ast.MemberNode) value {
	if n.Method {
		return a.failf(n, "calls a method; known functions are %s", functions)
	}
	if id, ok := n.Node.(*ast.IdentifierNode); ok {
		if names := a.needs.text(id.Value); names != nil && a.vars[id.Value].kind == 0 {
			return a.sent(n, id.Value, names)
		}
	}
	base := a.visit(n.Node)
	switch key := n.Property.(type) {
	case *ast.StringNode:
		if len(base.at) > 0 {
			return a.named(n, base, key.Value)
		}
	case *ast.IntegerNode:
		if len(base.at) > 0 {
			return a.listed(n.Node, base)
		}
	}
	if base.kind == kindTable {
		a.scalar(n.Property, a.visit(n.Property))
		return *base.elem
	}
	if a.err != nil {
		return none(0)
	}
	return a.failf(n, "%s cannot be looked up in what a request sends; names must be written out, such as body.n", n.Property)
}

// sent is a name in form, query, header, path or parts.
func (a *analysis) sent(n *ast.MemberNode, source string, names *[]string) value {
	key, ok := n.Property.(*ast.StringNode)
	if !ok {
		return a.failf(n, "the name in %s[…] must be written out, such as %s.n", source, source)
	}
	name := key.Value
	a.reads = true
	if source == "path" && !slices.Contains(*names, name) {
		return a.failf(n, "path.%s is not in match; write {%s} there", name, name)
	}
	if !slices.Contains(*names, name) {
		if len(*names) == fieldsMax {
			return a.failf(n, "more than %d names of %s are used", fieldsMax, source)
		}
		*names = append(*names, name)
	}
	a.refs = append(a.refs, ref{source: source, path: []string{name}, must: a.optional == 0})
	v := none(kindSent | kindNil)
	if source == "parts" {
		v = none(kindFiles | kindNil)
	}
	v.name = source + "." + name
	if !identifier(name) { // as it must be written in the policy
		v.name = fmt.Sprintf("%s[%q]", source, name)
	}
	return v
}

// named is a name below a place in a document.
func (a *analysis) named(n ast.Node, base value, name string) value {
	out := none(0)
	for _, s := range base.at {
		f := s.field(name)
		if f == nil {
			return a.failf(n, "names more than %d values at one level, or more than %d levels", fieldsMax, pathMax)
		}
		out = out.or(a.from(f))
		if path := strings.Split(f.param, "."); !strings.Contains(f.param, "[]") {
			a.refs = append(a.refs, ref{source: path[0], path: path[1:], must: a.optional == 0})
		}
	}
	return out
}

func (a *analysis) unary(n *ast.UnaryNode) value {
	v := a.visit(n.Node)
	a.scalar(n.Node, v)
	switch n.Operator {
	case "-":
		a.arithmetic(n.Node, v)
		return number(-v.hi, -v.lo)
	case "+":
		a.arithmetic(n.Node, v)
		return v
	}
	return none(kindTruth)
}

func (a *analysis) binary(n *ast.BinaryNode) value {
	switch n.Operator {
	case "??":
		return a.fallback(n)
	case "==", "!=":
		return a.equality(n)
	case "in":
		a.scalar(n.Left, a.visit(n.Left))
		a.scalar(n.Right, a.listed(n.Right, a.visit(n.Right)))
		return none(kindTruth)
	case "matches":
		if _, ok := n.Right.(*ast.StringNode); !ok {
			return a.failf(n.Right, "the pattern after matches must be written out")
		}
	}
	left, right := a.visit(n.Left), a.visit(n.Right)
	a.scalar(n.Left, left)
	a.scalar(n.Right, right)
	switch n.Operator {
	case "<", "<=", ">", ">=":
		a.arithmetic(n.Left, left)
		a.arithmetic(n.Right, right)
		return none(kindTruth)
	case "and", "&&", "or", "||", "contains", "startsWith", "endsWith", "matches":
		return none(kindTruth)
	case "+", "-", "*", "/", "%":
		a.arithmetic(n.Left, left)
		a.arithmetic(n.Right, right)
		return a.compute(n, left, right)
	}
	return a.failf(n, "the operator %s is not known here; use + - * / %% and comparisons", n.Operator)
}

// fallback is left ?? right. Where the right side needs a name too, messages offer both.
func (a *analysis) fallback(n *ast.BinaryNode) value {
	from := len(a.refs)
	a.optional++
	left := a.visit(n.Left)
	a.optional--
	left.kind &^= kindNil
	to := len(a.refs)
	right := a.visit(n.Right)
	if slices.ContainsFunc(a.refs[to:], func(r ref) bool { return r.must }) {
		for i := range a.refs[from:to] {
			a.refs[from+i].either = true
		}
	}
	return left.or(right)
}

// equality reads both sides, but a comparison with nil only whether the other is there.
func (a *analysis) equality(n *ast.BinaryNode) value {
	for _, side := range [][2]ast.Node{{n.Left, n.Right}, {n.Right, n.Left}} {
		if _, ok := side[1].(*ast.NilNode); ok {
			a.optional++
			a.seen(a.visit(side[0]))
			a.optional--
			return none(kindTruth)
		}
	}
	left, right := a.visit(n.Left), a.visit(n.Right)
	a.scalar(n.Left, left)
	a.scalar(n.Right, right)
	if left.kind&^kindNil == kindSent && right.kind == kindNumber {
		a.failf(n.Left, "%s is text and never equals a number; write int(%s)", left.name, left.name)
	}
	return none(kindTruth)
}

// arithmetic refuses text where a number is needed.
func (a *analysis) arithmetic(n ast.Node, v value) {
	switch {
	case v.kind&kindSent != 0:
		a.failf(n, "%s is text; write int(%s) for its number", v.name, v.name)
	case !v.isNumber():
		a.failf(n, "%s is not a number", n)
	}
}

// compute bounds the result of an operator by its corners.
func (a *analysis) compute(n *ast.BinaryNode, l, r value) value {
	if a.err != nil {
		return none(0)
	}
	if (n.Operator == "/" || n.Operator == "%") && r.lo <= 0 && r.hi >= 0 {
		return a.failf(n.Right, "may divide by zero; write max(1, %s)", n.Right)
	}
	out := none(kindNumber)
	for _, x := range [2]float64{l.lo, l.hi} {
		for _, y := range [2]float64{r.lo, r.hi} {
			c := 0.0
			switch n.Operator {
			case "+":
				c = x + y
			case "-":
				c = x - y
			case "*":
				c = x * y
			case "/":
				c = x / y
			case "%": // takes the sign of x, and is smaller than y
				c = math.Copysign(min(math.Abs(x), math.Abs(y)), x)
			}
			out.lo, out.hi = min(out.lo, c), max(out.hi, c)
		}
	}
	if n.Operator == "%" { // zero lies between
		out.lo, out.hi = min(out.lo, 0), max(out.hi, 0)
	}
	if out.lo < -exactMax || out.hi > exactMax {
		return a.failf(n, "can grow beyond 2^53 and lose units; bound its parts, such as min(%s, 10000)", n.Left)
	}
	return out
}

// builtin is a function of the expression library.
func (a *analysis) builtin(n *ast.BuiltinNode) value {
	if !slices.Contains(strings.Fields(functions), n.Name) {
		return a.failf(n, "the function %s is not known here; known are %s", n.Name, functions)
	}
	switch n.Name {
	case "count", "any", "all", "none", "one", "sum", "filter", "map", "find":
		return a.overList(n)
	}
	return a.overScalars(n)
}

// overList is a function that walks a list, with or without a predicate.
func (a *analysis) overList(n *ast.BuiltinNode) value {
	if a.pointer != nil {
		return a.failf(n, "walks a list inside another walk, which could take the square of a request's length")
	}
	list := a.visit(n.Arguments[0])
	elem := a.listed(n.Arguments[0], list)
	result := elem
	if len(n.Arguments) == 2 {
		predicate, ok := n.Arguments[1].(*ast.PredicateNode)
		if !ok {
			return a.failf(n, "needs a condition on its elements, such as .status == \"ok\"")
		}
		a.pointer = &elem
		result = a.visit(predicate.Node)
		a.pointer = nil
	}
	switch n.Name {
	case "filter":
		a.scalar(n, result)
		return value{kind: kindList, lo: math.Inf(1), hi: math.Inf(-1), at: list.at, elem: list.elem}
	case "find":
		a.scalar(n, result)
		return elem.or(none(kindNil))
	case "map":
		out := none(kindList)
		out.elem = &result
		return out
	case "sum":
		a.scalar(n, result)
		a.arithmetic(n, result)
		if hi := result.hi * elementsMax; hi > exactMax {
			return a.failf(n, "can grow beyond 2^53 and lose units; bound its parts")
		}
		return number(min(0, result.lo*elementsMax), max(0, result.hi*elementsMax))
	case "count":
		a.scalar(n, result)
		return number(0, elementsMax)
	}
	a.scalar(n, result)
	return none(kindTruth)
}

// overScalars is a function of plain values.
func (a *analysis) overScalars(n *ast.BuiltinNode) value {
	var args []value
	for _, arg := range n.Arguments {
		v := a.visit(arg)
		if (n.Name == "min" || n.Name == "max") && len(n.Arguments) == 1 {
			v = a.listed(arg, v)
		}
		a.scalar(arg, v)
		if !slices.Contains([]string{"lower", "upper", "trim"}, n.Name) {
			a.arithmetic(arg, v)
		}
		args = append(args, v)
	}
	if len(args) == 0 || a.err != nil {
		return none(0)
	}
	out := number(args[0].lo, args[0].hi)
	switch n.Name {
	case "min":
		for _, v := range args[1:] {
			out.lo, out.hi = min(out.lo, v.lo), min(out.hi, v.hi)
		}
	case "max":
		for _, v := range args[1:] {
			out.lo, out.hi = max(out.lo, v.lo), max(out.hi, v.hi)
		}
	case "abs":
		out = number(0, max(math.Abs(out.lo), math.Abs(out.hi)))
		if args[0].lo > 0 {
			out.lo = args[0].lo
		}
	case "ceil", "floor", "round":
		out = number(math.Floor(out.lo), math.Ceil(out.hi))
	default:
		out = none(kindText)
	}
	return out
}

// given asks whether a name was sent with a value. The value itself is not read.
func (a *analysis) given(n ast.Node) value {
	a.optional++
	v := a.visit(n)
	a.optional--
	if len(v.at) == 0 && v.kind&(kindSent|kindFiles) == 0 {
		return a.failf(n, "%s is not a name that a request sends; write one, such as given(body.background)", n)
	}
	for _, s := range v.at {
		if s.depth == 0 {
			return a.failf(n, "%s cannot be used as a whole; name what is meant, such as %s.n", s.param, s.param)
		}
		s.present = true
	}
	return none(kindTruth)
}

// call is one of our own functions: len counts a list and passes absence on; int reads a number strictly; given asks
// whether there is anything.
func (a *analysis) call(n *ast.CallNode) value {
	id, ok := n.Callee.(*ast.IdentifierNode)
	if !ok || (id.Value != "len" && id.Value != "int" && id.Value != "given") {
		return a.failf(n, "%s is not a function; known are %s", n.Callee, functions)
	}
	if len(n.Arguments) != 1 {
		return a.failf(n, "%s takes one value", id.Value)
	}
	arg := n.Arguments[0]
	if id.Value == "given" {
		return a.given(arg)
	}
	v := a.visit(arg)
	if id.Value == "int" {
		a.scalar(arg, v)
		out := number(min(v.lo, 0), max(v.hi, intMax))
		out.kind |= v.kind & kindNil
		return out
	}
	for _, s := range v.at {
		s.list = true
	}
	if len(v.at) == 0 && v.kind&(kindFiles|kindList|kindTable) == 0 && a.err == nil {
		return a.failf(arg, "%s is not a list", arg)
	}
	out := number(0, intMax)
	out.kind |= kindNil
	return out
}
