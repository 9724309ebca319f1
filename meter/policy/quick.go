package policy

import "github.com/expr-lang/expr/ast"

// quick is an expression of one of the few forms that nearly all policies consist of, evaluated without the library's
// machine, whose reflection costs a request about a microsecond and five allocations:
//
//	body.n
//	len(body.photos)
//	count(response.results, .status == "ok")
//
// each of these also with ?? and a number after it, and conditions such as
//
//	given(body.background) or given(parts.background)
//
// It knows only values of the expected kind; whatever else is met is left to
// the machine, so that there is one meaning and one set of refusals. TestQuick and FuzzQuick hold both together.
type quick struct {
	source string   // body, query, …
	path   []string // names below it
	len    bool
	count  *tally
	other  any      // what stands after ??, nil if nothing does
	given  []*quick // names of which one must be given; then the fields above say nothing
}

// tally is the predicate of a count: .field == "text".
type tally struct{ field, text string }

// newQuick is nil for an expression of any other form.
func newQuick(n ast.Node) *quick {
	q := &quick{}
	if q.anyGiven(n) {
		return q
	}
	if b, ok := n.(*ast.BinaryNode); ok && b.Operator == "??" {
		if q.other = plainNumber(b.Right); q.other == nil {
			return nil
		}
		n = b.Left
	}
	switch v := n.(type) {
	case *ast.CallNode:
		id, ok := v.Callee.(*ast.IdentifierNode)
		if !ok || id.Value != "len" || len(v.Arguments) != 1 {
			return nil
		}
		q.len, n = true, v.Arguments[0]
	case *ast.BuiltinNode:
		if v.Name != "count" || len(v.Arguments) != 2 {
			return nil
		}
		if q.count = newTally(v.Arguments[1]); q.count == nil {
			return nil
		}
		n = v.Arguments[0]
	}
	if !q.name(n) {
		return nil
	}
	return q
}

func plainNumber(n ast.Node) any {
	switch v := n.(type) {
	case *ast.IntegerNode:
		return v.Value
	case *ast.FloatNode:
		return v.Value
	}
	return nil
}

// anyGiven takes given(…), and several of them with or between.
func (q *quick) anyGiven(n ast.Node) bool {
	switch v := n.(type) {
	case *ast.BinaryNode:
		return (v.Operator == "or" || v.Operator == "||") && q.anyGiven(v.Left) && q.anyGiven(v.Right)
	case *ast.CallNode:
		id, ok := v.Callee.(*ast.IdentifierNode)
		one := &quick{}
		if !ok || id.Value != "given" || len(v.Arguments) != 1 || !one.name(v.Arguments[0]) {
			return false
		}
		q.given = append(q.given, one)
		return true
	}
	return false
}

// name takes a chain of plain names below an identifier.
func (q *quick) name(n ast.Node) bool {
	switch v := n.(type) {
	case *ast.IdentifierNode:
		q.source = v.Value
		return len(q.path) > 0
	case *ast.MemberNode:
		key, ok := v.Property.(*ast.StringNode)
		if !ok || v.Optional || v.Method {
			return false
		}
		q.path = append([]string{key.Value}, q.path...)
		return q.name(v.Node)
	}
	return false
}

func newTally(n ast.Node) *tally {
	p, ok := n.(*ast.PredicateNode)
	if !ok {
		return nil
	}
	equal, ok := p.Node.(*ast.BinaryNode)
	if !ok || equal.Operator != "==" {
		return nil
	}
	text, isText := equal.Right.(*ast.StringNode)
	member, isMember := equal.Left.(*ast.MemberNode)
	if !isText || !isMember || member.Optional || member.Method {
		return nil
	}
	pointer, isPointer := member.Node.(*ast.PointerNode)
	field, isName := member.Property.(*ast.StringNode)
	if !isPointer || pointer.Name != "" || !isName {
		return nil
	}
	return &tally{field: field.Value, text: text.Value}
}

// value is the result; ok is false where the machine must be asked.
func (q *quick) value(env map[string]any) (v any, ok bool) {
	for _, g := range q.given {
		sent, ok := g.sent(env)
		if !ok {
			return nil, false
		}
		if given, _ := callGiven(sent); given == true {
			return true, true
		}
	}
	if len(q.given) > 0 {
		return false, true
	}
	if v, ok = q.sent(env); !ok {
		return nil, false
	}
	switch {
	case q.len && v != nil:
		n, err := callLen(v)
		if err != nil {
			return nil, false
		}
		v = n
	case q.count != nil:
		if v, ok = q.count.of(v); !ok {
			return nil, false
		}
	}
	if v == nil {
		v = q.other
	}
	return v, true
}

// sent is the value under the name; ok is false where the machine must be asked.
func (q *quick) sent(env map[string]any) (v any, ok bool) {
	v = env[q.source]
	for _, name := range q.path {
		m, isMap := v.(map[string]any)
		if !isMap {
			return nil, false
		}
		v = m[name]
	}
	return v, true
}

func (t *tally) of(v any) (any, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	n := 0
	for _, e := range list {
		m, isMap := e.(map[string]any)
		if !isMap {
			return nil, false
		}
		switch s := m[t.field].(type) {
		case nil:
		case string:
			if s == t.text {
				n++
			}
		default:
			return nil, false
		}
	}
	return n, true
}
