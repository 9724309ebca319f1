package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Decoding walks the syntax tree instead of filling structs, because every mistake must be named at its place,
// and all of them at once. Of YAML only mappings, lists and scalars are taken: what anchors, tags and merge keys
// say in one line, a reader of prices must not have to work out.

// item is a value in the file, with the path that leads to it.
type item struct {
	r    *report
	path string
	node ast.Node
	at   *token.Token // where problems of this item are shown: its value, or its key if the value is missing
}

// document reads the one document of a file; ok is false if there is nothing to walk.
func document(r *report, src []byte) (item, bool) {
	if !utf8.Valid(src) {
		r.add(Problem{Detail: "is not UTF-8 text; save it as UTF-8"})
		return item{}, false
	}
	tokens := lexer.Tokenize(string(src))
	n := 0
	for _, tk := range tokens {
		if tk.Type != token.CommentType {
			n++
		}
	}
	if n > tokensMax {
		r.add(Problem{Detail: fmt.Sprintf("has %d keys, values and signs; %d are the most, which is far beyond %d operations",
			n, tokensMax, operationsMax)})
		return item{}, false
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.add(syntaxProblem(err))
		return item{}, false
	}
	docs := slices.DeleteFunc(file.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil })
	switch {
	case len(docs) == 0:
		r.add(Problem{Line: 1, Column: 1, Detail: "is empty; a policy has at least name, buckets and operations"})
		return item{}, false
	case len(docs) > 1:
		at := start(docs[1].Body).Position
		r.add(Problem{Line: at.Line, Column: at.Column, Detail: "has a second document; write one policy per file"})
		return item{}, false
	}
	return item{r: r, node: docs[0].Body, at: start(docs[0].Body)}, true
}

// start is the first token of a node. A block mapping's own token is its first colon.
func start(n ast.Node) *token.Token {
	if m, ok := n.(ast.MapNode); ok && n.GetToken().Type == token.MappingValueType {
		if it := m.MapRange(); it.Next() {
			return it.Key().GetToken()
		}
	}
	return n.GetToken()
}

func syntaxProblem(err error) Problem {
	var e yaml.Error
	if !errors.As(err, &e) {
		return Problem{Detail: "is not YAML: " + err.Error()}
	}
	p := Problem{Line: 1, Column: 1, Detail: "is not YAML: " + e.GetMessage()}
	if tk := e.GetToken(); tk != nil {
		p.Line, p.Column = tk.Position.Line, max(1, tk.Position.Column)
	}
	if strings.Contains(p.Detail, "value is not allowed in this context") {
		p.Detail += "; put an expression that contains ': ' or starts with '{' in single quotes"
	}
	return p
}

// failf reports a problem of i.
func (i item) failf(format string, args ...any) {
	i.r.add(Problem{
		Line: i.at.Position.Line, Column: max(1, i.at.Position.Column), Path: i.path, Detail: fmt.Sprintf(format, args...),
	})
}

// warnf reports something about i that may be meant.
func (i item) warnf(format string, args ...any) {
	i.r.warn(Problem{
		Line: i.at.Position.Line, Column: max(1, i.at.Position.Column), Path: i.path, Detail: fmt.Sprintf(format, args...),
	})
}

// child is the item below i under name.
func (i item) child(name string, node ast.Node, at *token.Token) item {
	path := name
	if i.path != "" {
		path = i.path + "." + name
	}
	return item{r: i.r, path: path, node: node, at: at}
}

// plain reports anything but a mapping, a list or a scalar with a value.
func (i item) plain() bool {
	switch n := i.node.(type) {
	case *ast.NullNode:
		i.failf("has no value; write one or remove the key")
	case *ast.AnchorNode, *ast.AliasNode:
		i.failf("uses an anchor or alias; write the value out where it applies")
	case *ast.TagNode:
		i.failf("has the tag %s; write the bare value", n.GetToken().Value)
	case *ast.StringNode:
		return i.decided(n.Value)
	case *ast.LiteralNode:
		return i.decided(n.Value.Value)
	default:
		return true
	}
	return false
}

// decided reports a text with the word TBD in it, as a name, a value or a part of one.
func (i item) decided(text string) bool {
	notInWord := func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	if !slices.Contains(strings.FieldsFunc(text, notInWord), "TBD") {
		return true
	}
	i.r.add(Problem{
		Line: i.at.Position.Line, Column: i.at.Position.Column, Path: i.path, TBD: true,
		Detail: "TBD is not a value; decide it, and note open questions in a comment",
	})
	return false
}

// mapping returns the entries of a mapping in file order. Each key is reported once if it is not a plain word or
// is there twice.
func (i item) mapping(want string) ([]entry, bool) {
	if !i.plain() {
		return nil, false
	}
	m, ok := i.node.(ast.MapNode)
	if !ok {
		i.failf("must be %s, not %s", want, kindOf(i.node))
		return nil, false
	}
	var out []entry
	seen := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		key, ok := it.Key().(*ast.StringNode)
		if !ok {
			tk := it.Key().GetToken()
			i.child(tk.Value, nil, tk).failf("is not a key; write a plain word")
			continue
		}
		at := it.Value().GetToken()
		if it.Value().Type() == ast.NullType {
			at = key.Token
		}
		if _, isMap := it.Value().(ast.MapNode); isMap {
			at = key.Token // what is missing in a mapping is best shown at its name
		}
		e := entry{key: key.Value, keyAt: key.Token, item: i.child(key.Value, it.Value(), at)}
		if !i.child(e.key, nil, key.Token).decided(e.key) {
			continue
		}
		if line, twice := seen[e.key]; twice {
			i.child(e.key, nil, key.Token).failf("is already set in line %d; keep one of the two", line)
			continue
		}
		seen[e.key] = key.Token.Position.Line
		out = append(out, e)
	}
	return out, true
}

type entry struct {
	key   string
	keyAt *token.Token
	item
}

// fields is mapping for a fixed set of keys; unknown ones are reported with the nearest known one. A misspelt key is then
// read as what was meant, so that it is not reported as missing too.
func (i item) fields(want string, known ...string) (map[string]item, bool) {
	entries, ok := i.mapping(want)
	out, meant := make(map[string]item, len(entries)), map[string]item{}
	for _, e := range entries {
		if slices.Contains(known, e.key) {
			out[e.key] = e.item
			continue
		}
		hint := "known here: " + strings.Join(known, ", ")
		if near := nearest(e.key, known); near != "" {
			hint = "did you mean " + near + "?"
			meant[near] = e.item
		}
		e.at = e.keyAt
		e.failf("unknown key; %s", hint)
	}
	for near, i := range meant {
		if _, set := out[near]; !set {
			out[near] = i
		}
	}
	return out, ok
}

// need reports what is missing of keys that must be there, all in one; all says what they are.
func (i item) need(keys map[string]item, all string, names ...string) {
	var missing []string
	for _, name := range names {
		if _, ok := keys[name]; !ok {
			missing = append(missing, name)
		}
	}
	switch n := len(missing); n {
	case 0:
	case 1:
		i.failf("%s is missing; %s", missing[0], all)
	default:
		i.failf("%s and %s are missing; %s", strings.Join(missing[:n-1], ", "), missing[n-1], all)
	}
}

// list returns the values of a list.
func (i item) list(want string) ([]item, bool) {
	if !i.plain() {
		return nil, false
	}
	seq, ok := i.node.(*ast.SequenceNode)
	if !ok {
		i.failf("must be %s, not %s", want, kindOf(i.node))
		return nil, false
	}
	out := make([]item, len(seq.Values))
	for n, v := range seq.Values {
		out[n] = item{r: i.r, path: fmt.Sprintf("%s[%d]", i.path, n), node: v, at: v.GetToken()}
	}
	return out, true
}

// word is a text that is not a number, a truth value or a list.
func (i item) word(want string) (string, bool) {
	if !i.plain() {
		return "", false
	}
	switch n := i.node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	i.failf("must be %s, not %s", want, kindOf(i.node))
	return "", false
}

// isWord reports whether word would find a text.
func (i item) isWord() bool {
	_, ok := i.node.(*ast.StringNode)
	return ok
}

// choice is one of the words that are known here, or "".
func (i item) choice(known ...string) string {
	list := strings.Join(known[:len(known)-1], ", ") + " or " + known[len(known)-1]
	word, ok := i.word(list)
	if ok && !slices.Contains(known, word) {
		i.failf("%q is not known; write %s", clip(word), list)
		return ""
	}
	return word
}

// truth is true or false.
func (i item) truth() (value, ok bool) {
	if !i.plain() {
		return false, false
	}
	b, ok := i.node.(*ast.BoolNode)
	if !ok {
		i.failf("must be true or false, not %s", kindOf(i.node))
		return false, false
	}
	return b.Value, true
}

// whole is a whole number from least to most.
func (i item) whole(least, most int) (n int, ok bool) {
	if !i.plain() {
		return 0, false
	}
	text := i.number()
	n, ok = wholeNumber(text)
	switch {
	case text == "":
		i.failf("must be a whole number from %d to %d, not %s", least, most, kindOf(i.node))
	case !ok && !wholeDigits(strings.TrimPrefix(text, "-")):
		i.failf("%s is not a whole number; write digits, such as %d", text, max(least, 1))
	case !ok || n < least || n > most:
		i.failf("%s is out of range; write %d to %d", text, least, most)
	default:
		return n, true
	}
	return 0, false
}

// unknown is what is wrong with a name that was not declared: the one that was meant, or all there are.
func unknown(name, what string, known []string) string {
	switch near := nearest(name, known); {
	case near != "":
		return fmt.Sprintf("%s is not %s; did you mean %s?", show(name), what, near)
	case len(known) == 0:
		return fmt.Sprintf("%s is not %s; there are none", show(name), what)
	}
	return fmt.Sprintf("%s is not %s; there are %s", show(name), what, strings.Join(known, ", "))
}

// number is the text of a scalar written as a number, "" if it is something else.
func (i item) number() string {
	switch i.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return i.node.GetToken().Value
	}
	return ""
}

// inText is the place of a character of i's text, where the text stands in the file as it is; else its start.
func (i item) inText(char int) *token.Token {
	n, ok := i.node.(*ast.StringNode)
	if !ok || strings.ContainsAny(strings.TrimSpace(n.Token.Origin), "\\\n") || strings.Contains(n.Value, "'") {
		return i.at
	}
	if n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType {
		char++
	}
	at, pos := *i.at, *i.at.Position
	pos.Column += char + len(n.Value) - len(strings.TrimLeft(n.Value, " "))
	at.Position = &pos
	return &at
}

func kindOf(n ast.Node) string {
	switch n.(type) {
	case ast.MapNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "a truth value (" + n.GetToken().Value + ")"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number (" + n.GetToken().Value + ")"
	case *ast.StringNode:
		return "the text " + show(n.GetToken().Value)
	case *ast.LiteralNode:
		return "a text"
	}
	return "this"
}

// nearest is the known word at most two edits from s, "" if none is.
func nearest(s string, known []string) string {
	dist := make(map[string]int, len(known))
	for _, k := range known {
		if d := edits(s, k); d <= 2 && d < len(k) {
			dist[k] = d
		}
	}
	best := ""
	for _, k := range slices.Sorted(maps.Keys(dist)) {
		if best == "" || dist[k] < dist[best] {
			best = k
		}
	}
	return best
}

// edits is the Levenshtein distance; keys are short, so the quadratic table is small.
func edits(a, b string) int {
	if len(a) > 32 || len(b) > 32 {
		return 32
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diag+cost)
		}
	}
	return row[len(b)]
}
