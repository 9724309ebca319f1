package policy

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parse reads a policy with the given operations, indented as under `operations:`.
func parse(tb testing.TB, operations string) *Policy {
	tb.Helper()
	src := "name: test\nbuckets: [promo, purchased]\noperations:\n" + operations
	p, err := Parse("test.yaml", []byte(src))
	require.NoError(tb, err)
	return p
}

// operation is the one operation on POST /x with the given rules.
func operation(tb testing.TB, rules ...string) *Operation {
	tb.Helper()
	p := parse(tb, "  x:\n    match: POST /x\n    "+strings.Join(rules, "\n    ")+"\n")
	return p.Operations[0]
}

func header(lines ...string) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		for _, l := range lines {
			k, v, _ := strings.Cut(l, ": ")
			if !yield([]byte(k), []byte(v)) {
				return
			}
		}
	}
}

func jsonRequest(body string) Request {
	return Request{Header: header("Content-Type: application/json"), Body: []byte(body)}
}

// price is "units × unit credits = credits", or the error as "sentinel (param): detail".
func price(o *Operation, r Request) string {
	v, err := o.Read(r)
	if err == nil {
		var q Quote
		if q, err = o.Quote(v); err == nil {
			return fmt.Sprintf("%d × %s = %s", q.Units, q.UnitCredits, q.Credits)
		}
	}
	var e *InputError
	if !errors.As(err, &e) {
		return err.Error()
	}
	return fmt.Sprintf("%s (%s): %s", e.Err, e.Param, e.Detail)
}

func emptyMemory() *memory { return new(Operation).memory() }
