package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"
)

// Bounds of one expression. Together with the bounds on lists and numbers they bound the time that pricing takes.
const (
	sourceMax = 1024 // characters
	nodesMax  = 200  // of its syntax tree
	memoryMax = 2 * elementsMax
)

// expression is a compiled expression with what analysis found.
type expression struct {
	source string
	lo, hi float64 // its result lies between
	refs   []ref

	quick   *quick // nil for most forms
	program *vm.Program
	machine sync.Pool // of *vm.VM: their stacks are worth keeping
}

// scope is which names an expression may use.
type scope struct {
	needs    *needs
	response bool // response and units are known
	slots    bool // slots is known, and nothing else: an amount of a plan

	condition bool // it comes to true or false, not to a number
}

// compile checks and compiles source. What it reads is added to s.needs.
func compile(source string, s scope) (*expression, *exprError) {
	if n := utf8.RuneCountInString(source); n > sourceMax {
		return nil, &exprError{detail: fmt.Sprintf("has %d characters; %d are the most", n, sourceMax)}
	}
	// Analysis sees the expression as it was written; what runs is optimised.
	plain, err := expr.Compile(source, options(s, expr.Optimize(false))...)
	if err != nil {
		return nil, compileError(err, s)
	}
	a := &analysis{needs: s.needs, response: s.response, slots: s.slots}
	result := a.visit(plain.Node())
	a.scalar(plain.Node(), result)
	switch {
	case a.err != nil:
		return nil, a.err
	case s.condition && result.kind&^kindNil != kindTruth:
		return nil, &exprError{detail: "is not a condition; write a comparison, or given(…) for what must be there"}
	case s.condition && !a.reads:
		return nil, &exprError{detail: "does not depend on the request; name what must be there, such as given(body.background)"}
	case s.condition:
	case result.kind&kindSent != 0:
		return nil, &exprError{detail: fmt.Sprintf("%s is text; write int(%s) for its number", result.name, result.name)}
	case !result.isNumber():
		return nil, &exprError{detail: "does not come to a number"}
	case !a.reads && result.lo == result.hi:
		return nil, &exprError{detail: fmt.Sprintf("always comes to %v; write that number, without quotes", result.lo)}
	}
	program, err := expr.Compile(source, options(s)...)
	if err != nil {
		return nil, compileError(err, s)
	}
	return &expression{
		source: source, lo: result.lo, hi: result.hi, refs: a.refs, quick: newQuick(plain.Node()), program: program,
	}, nil
}

func options(s scope, more ...expr.Option) []expr.Option {
	named := types.Map{types.Extra: types.Any}
	env := types.Map{"body": types.Any, "form": named, "query": named, "header": named, "parts": named, "path": named}
	switch {
	case s.response:
		env["response"], env["units"] = types.Any, types.Int
	case s.slots:
		env = types.Map{"slots": types.Int}
	}
	out := []expr.Option{
		expr.Env(env), expr.MaxNodes(nodesMax), expr.DisableAllBuiltins(), expr.Patch(lowerHeaders{}),
		expr.Function("len", callLen), expr.Function("int", callInt), expr.Function("given", callGiven),
	}
	for name := range strings.FieldsSeq(functions) { // but our own
		if name != "len" && name != "int" && name != "given" {
			out = append(out, expr.EnableBuiltin(name))
		}
	}
	return append(out, more...)
}

// lowerHeaders makes header names what the view calls them.
type lowerHeaders struct{}

func (lowerHeaders) Visit(n *ast.Node) {
	m, ok := (*n).(*ast.MemberNode)
	if !ok {
		return
	}
	id, isName := m.Node.(*ast.IdentifierNode)
	key, isText := m.Property.(*ast.StringNode)
	if isName && isText && id.Value == "header" {
		key.Value = strings.ToLower(key.Value)
	}
}

// compileError says in the policy's words what the library found.
func compileError(err error, s scope) *exprError {
	var e *file.Error
	if !errors.As(err, &e) {
		return &exprError{detail: err.Error()}
	}
	names, known := "names are body, form, query, header, parts, path", functions
	switch {
	case s.response:
		names = "names are response, units, body, form, query, header, parts, path"
	case s.slots:
		names, known = "the one name is slots", "min max abs ceil floor round"
	}
	detail := e.Message
	name, unknown := strings.CutPrefix(detail, "unknown name ")
	switch {
	case unknown:
		detail = fmt.Sprintf("%s is not known here; %s, and functions are %s", name, names, known)
	case s.slots && strings.Contains(detail, "to get an element from"):
		detail = noTable
	case strings.Contains(detail, "exceeds maximum allowed nodes"):
		detail = fmt.Sprintf("has more than %d parts; say it more simply", nodesMax)
	case strings.HasPrefix(detail, "unexpected token"):
		detail += "; check brackets, quotes and operators, and put an expression with # in single quotes"
	}
	return &exprError{at: e.From, detail: detail}
}

// run evaluates the expression. Its time is bounded: by nodesMax, and for list functions, which do not nest, by
// elementsMax.
func (e *expression) run(env map[string]any) (any, error) {
	if e.quick != nil {
		if out, ok := e.quick.value(env); ok {
			return out, nil
		}
	}
	return e.runMachine(env)
}

func (e *expression) runMachine(env map[string]any) (any, error) {
	m, ok := e.machine.Get().(*vm.VM)
	if !ok {
		m = &vm.VM{MemoryBudget: memoryMax}
	}
	out, err := m.Run(e.program, env)
	e.machine.Put(m)
	return out, err
}

// How our functions refuse.
var (
	errNotList   = errors.New("len takes a list")
	errNotNumber = errors.New("int takes a whole number")
)

// callLen counts a list. Absence stays absence, so that a fallback can follow: len(body.photos) ?? 1.
func callLen(args ...any) (any, error) {
	switch v := args[0].(type) {
	case nil:
		return nil, nil //nolint:nilnil // nil is a value of the expression
	case []any:
		return len(v), nil
	case counted:
		return len(v), nil
	}
	return nil, errNotList
}

// callInt reads a whole number, from text only in its one spelling: what form and query send as "4" is 4, while
// "04", "+4", "4.0" and "4 " could be read differently elsewhere.
func callInt(args ...any) (any, error) {
	switch v := args[0].(type) {
	case nil:
		return nil, nil //nolint:nilnil // nil is a value of the expression
	case int:
		return v, nil
	case float64:
		if n := int(v); float64(n) == v {
			return n, nil
		}
	case string:
		if n, ok := wholeNumber(v); ok {
			return n, nil
		}
	}
	return nil, errNotNumber
}

// callGiven tells whether something was sent: neither absent nor null, nor an empty text or list.
func callGiven(args ...any) (any, error) {
	switch v := args[0].(type) {
	case nil:
		return false, nil
	case string:
		return v != "", nil
	case []any:
		return len(v) > 0, nil
	case counted:
		return len(v) > 0, nil
	}
	return true, nil
}

// wholeNumber reads digits without sign or leading zero, up to intMax.
func wholeNumber[T string | []byte](s T) (int, bool) {
	if len(s) == 0 || len(s) > 10 || (s[0] == '0' && len(s) > 1) {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, n <= intMax
}

// show writes a value into a message, bounded and in quotes if it is text.
func show(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(clip(s))
	}
	return fmt.Sprint(v)
}

// clip bounds what a message repeats.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
