package main_test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/stretchr/testify/require"
)

// edit is one mistake in a policy: what stands between two bytes of its source becomes something else.
type edit struct {
	path     string // plans.basic.packs
	from, to int
	text     string
}

func (e edit) apply(src string) string { return src[:e.from] + e.text + src[e.to:] }

// name tells edits of a policy apart, as the list of survivors has it.
func (e edit) name(src string) string {
	gone := strings.Join(strings.Fields(src[e.from:e.to]), " ")
	return fmt.Sprintf("%s: %s → %s", e.path, gone, strings.Join(strings.Fields(e.text), " "))
}

// editor makes the edits of one policy by its syntax tree: each number, flag, span, date, price, route, word and order
// is changed, each entry and element is left out. What only people read stays: name, notices, assumptions, messages.
type editor struct {
	t     *testing.T
	src   string
	lines []int // where each begins
	edits []edit
}

func editsOf(t *testing.T, src string) []edit {
	t.Helper()
	file, err := parser.ParseBytes([]byte(src), 0)
	require.NoError(t, err)
	e := &editor{t: t, src: src, lines: []int{0}}
	for i, c := range src {
		if c == '\n' {
			e.lines = append(e.lines, i+1)
		}
	}
	e.visit("", file.Docs[0].Body)
	seen := map[string]bool{}
	return slices.DeleteFunc(e.edits, func(d edit) bool {
		twice := seen[d.name(src)]
		seen[d.name(src)] = true
		return twice || d.text == src[d.from:d.to]
	})
}

func (e *editor) offset(n ast.Node) int {
	at := n.GetToken().Position
	return e.lines[at.Line-1] + at.Column - 1
}

func (e *editor) add(path string, from, to int, text string) {
	e.edits = append(e.edits, edit{path, from, to, text})
}

// end is the byte after a value.
func (e *editor) end(n ast.Node) int {
	switch v := n.(type) {
	case *ast.MappingNode:
		if !v.IsFlowStyle {
			return e.end(v.Values[len(v.Values)-1].Value)
		}
		return e.closing(e.offset(n))
	case *ast.MappingValueNode:
		return e.end(v.Value)
	case *ast.SequenceNode:
		if !v.IsFlowStyle {
			return e.end(v.Values[len(v.Values)-1])
		}
		return e.closing(e.offset(n))
	}
	from := e.offset(n)
	raw := n.GetToken().Value
	if c := e.src[from]; c == '\'' || c == '"' {
		return from + 1 + strings.IndexByte(e.src[from+1:], c) + 1
	}
	require.True(e.t, strings.HasPrefix(e.src[from:], raw), "%q does not stand at %d", raw, from)
	return from + len(raw)
}

// closing is the byte after the bracket that closes the one at from.
func (e *editor) closing(from int) int {
	depth, quote := 0, byte(0)
	for i := from; i < len(e.src); i++ {
		switch c := e.src[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	require.FailNow(e.t, "no closing bracket")
	return 0
}

func (e *editor) visit(path string, n ast.Node) {
	switch path {
	case "name", "assumptions", "events":
		return
	}
	switch v := n.(type) {
	case *ast.MappingNode:
		e.mapping(path, v.Values, v.IsFlowStyle)
	case *ast.MappingValueNode:
		e.mapping(path, []*ast.MappingValueNode{v}, false)
	case *ast.SequenceNode:
		e.sequence(path, v)
	default:
		if strings.HasSuffix(path, ".else") {
			return
		}
		from, to := e.offset(n), e.end(n)
		for _, text := range mistakes(path, e.src[from:to]) {
			e.add(path, from, to, text)
		}
	}
}

func (e *editor) mapping(path string, entries []*ast.MappingValueNode, flow bool) {
	for i, v := range entries {
		key := v.Key.GetToken().Value
		below := strings.TrimPrefix(path+"."+key, ".")
		e.visit(below, v.Value)
		from, to := e.offset(v.Key), e.end(v.Value)
		switch {
		case strings.HasPrefix(below, "assumptions") || below == "events" || below == "name" || key == "else":
		case !flow: // with its line
			from = strings.LastIndexByte(e.src[:from], '\n') + 1
			to += strings.IndexByte(e.src[to:]+"\n", '\n')
			e.add(below, from, to, "")
		case len(entries) == 1:
		case i+1 < len(entries):
			e.add(below, from, e.offset(entries[i+1].Key), "")
		default:
			e.add(below, e.end(entries[i-1].Value), to, "")
		}
	}
}

func (e *editor) sequence(path string, v *ast.SequenceNode) {
	for i, n := range v.Values {
		if _, scalar := n.(ast.ScalarNode); !scalar {
			e.visit(path, n)
			continue
		}
		from, to := e.offset(n), e.end(n)
		if i > 0 { // the order
			before := e.offset(v.Values[i-1])
			between := e.src[e.end(v.Values[i-1]):from]
			e.add(path, before, to, e.src[from:to]+between+e.src[before:e.end(v.Values[i-1])])
			e.add(path, e.end(v.Values[i-1]), to, "")
		} else if len(v.Values) > 1 {
			e.add(path, from, e.offset(v.Values[1]), "")
		}
	}
}

// others are the words that may stand where one stands.
func others() map[string][]string {
	return map[string][]string{
		"true": {"false"}, "false": {"true"}, "invoice": {"payment"}, "none": {"allowed"}, "required": {"optional"},
		"refuse": {"pass"}, "cycle": {"window"}, "never": {"{after: 1y}", "{after: 4w}"}, "next_renewal": {"{after: 1mo}", "never"},
		"subscription_start": {"{day_of_month: 1}"}, "Europe/Berlin": {"UTC"}, "Europe/Istanbul": {"UTC"}, "UTC": {"Asia/Tokyo"},
		"promo": {"monthly", "purchased"}, "purchased": {"monthly", "promo"}, "pack": {"subscription"},
	}
}

// mistakes are what else could be written instead of a value.
func mistakes(path, text string) (out []string) {
	if words, ok := others()[text]; ok {
		return words
	}
	if n, err := strconv.Atoi(text); err == nil {
		return near(n, "")
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return []string{day.AddDate(0, 0, 1).Format(time.DateOnly), day.AddDate(0, 0, -1).Format(time.DateOnly)}
	}
	if m := regexp.MustCompile(`^(\d+)(y|mo|w|d)$`).FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		if m[2] == "y" {
			return append(near(n, "y"), "11mo")
		}
		return near(n, m[2])
	}
	if m := regexp.MustCompile(`^(\d+\.\d\d) ([A-Z]{3})$`).FindStringSubmatch(text); m != nil {
		return []string{m[1][:len(m[1])-1] + "1 " + m[2], m[1] + " CHF"}
	}
	if method, route, ok := strings.Cut(text, " /"); ok && strings.HasSuffix(path, ".match") {
		return []string{"PUT /" + route, method + " /" + route + "s"}
	}
	return inExpression(text)
}

// near are the numbers beside n.
func near(n int, unit string) (out []string) {
	for _, m := range [...]int{n + 1, n - 1} {
		if m > 0 || m == 0 && unit == "" {
			out = append(out, strconv.Itoa(m)+unit)
		}
	}
	return out
}

// inExpression are mistakes in one place of an expression: a number, a text, a name, one of several alternatives.
func inExpression(text string) (out []string) {
	for _, m := range regexp.MustCompile(`\b\d+\b`).FindAllStringIndex(text, -1) {
		n, _ := strconv.Atoi(text[m[0]:m[1]])
		for _, other := range near(n, "") {
			out = append(out, text[:m[0]]+other+text[m[1]:])
		}
	}
	for _, m := range regexp.MustCompile(`"\w+"|\b\w+\.\w+\b`).FindAllStringIndex(text, -1) {
		at := m[1]
		if text[at-1] == '"' {
			at--
		}
		out = append(out, text[:at]+"x"+text[at:])
	}
	for _, operator := range [...]string{" ?? ", " or "} {
		parts := strings.Split(text, operator)
		for i := range parts {
			if len(parts) > 1 {
				out = append(out, strings.Join(slices.Delete(slices.Clone(parts), i, i+1), operator))
			}
		}
	}
	return out
}
