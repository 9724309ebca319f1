package policy

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of what an operation requires.
const (
	requirementsMax = 8   // of one operation
	elseMax         = 200 // characters of one message
)

// requirement is a condition that each request of an operation meets before anything is held for it.
type requirement struct {
	that   *expression
	orElse string // the message of the refusal
}

// decodeRequire reads conditions, each with the message for a request that does not meet it.
func (o *Operation) decodeRequire(i item) {
	list, ok := i.list("a list such as [{that: given(body.background), else: a background is needed}]")
	switch {
	case ok && len(list) == 0:
		i.failf("is empty; write a condition, or remove the key")
	case len(list) > requirementsMax:
		i.failf("has %d conditions; %d are the most", len(list), requirementsMax)
	}
	for _, l := range list {
		keys, ok := l.fields("a mapping with that and else", "that", "else")
		if !ok {
			continue
		}
		l.need(keys, "a requirement has a condition (that) and a message for who does not meet it (else)", "that", "else")
		var r requirement
		if that, ok := keys["that"]; ok {
			r.that = decodeExpression(that, "a condition, such as given(body.background)", scope{needs: &o.needs, condition: true})
		}
		if text, ok := keys["else"]; ok {
			r.orElse = decodeElse(text)
		}
		if r.that != nil {
			o.require = append(o.require, r)
		}
	}
}

// decodeElse reads a message, which is sent as it is written.
func decodeElse(i item) string {
	text, ok := i.word("a sentence for the caller")
	text = strings.TrimSpace(text)
	if n := utf8.RuneCountInString(text); ok && (n == 0 || n > elseMax || strings.ContainsAny(text, "\n\t")) {
		i.failf("must be one line of 1 to %d characters; say what is missing and how to mend it", elseMax)
	}
	return text
}

// check refuses a request that does not meet a requirement, or of which that cannot be told. The name it blames is the
// first one that the condition reads.
func (o *Operation) check(env map[string]any) *InputError {
	for _, r := range o.require {
		if met, err := r.that.run(env); err != nil || met != true {
			return &InputError{ErrRequired, r.that.param(), r.orElse}
		}
	}
	return nil
}

// requireText is the conditions as they are written.
func (o *Operation) requireText() string {
	var texts []string
	for _, r := range o.require {
		texts = append(texts, r.that.source)
	}
	return strings.Join(texts, "; ")
}

// expressions are all of the operation.
func (o *Operation) expressions() []*expression {
	all := []*expression{o.units, o.credits, o.delivered}
	for _, r := range o.require {
		all = append(all, r.that)
	}
	return slices.DeleteFunc(all, func(e *expression) bool { return e == nil })
}
