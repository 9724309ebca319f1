package main

import (
	"fmt"
	"io"
	"strings"
)

// report prints a line a step and counts what differs.
type report struct {
	out    io.Writer
	failed int
	steps  int
}

func (r *report) title(s string) { _, _ = fmt.Fprintf(r.out, "\n%s\n", s) }

// step is one line: what was done, and the numbers. The checks that fail follow it.
func (r *report) step(what, numbers string, checks ...check) {
	r.steps++
	var wrong []string
	for _, c := range checks {
		if c.want != c.have {
			wrong = append(wrong, fmt.Sprintf("      %s is %s, must be %s", c.what, c.have, c.want))
		}
	}
	mark := "✓"
	if len(wrong) > 0 {
		mark = "✗"
		r.failed++
	}
	_, _ = fmt.Fprintf(r.out, "  %s %-58s %s\n", mark, what, numbers)
	for _, line := range wrong {
		_, _ = fmt.Fprintln(r.out, line)
	}
}

func (r *report) text(s string) {
	_, _ = fmt.Fprintln(r.out, "    "+strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    "))
}

func (r *report) verdict() error {
	if r.failed > 0 {
		return fmt.Errorf("%d of %d steps differ", r.failed, r.steps)
	}
	_, _ = fmt.Fprintf(r.out, "\nAll %d steps are as they must be.\n", r.steps)
	return nil
}

// check compares one thing, as text.
type check struct{ what, want, have string }

func is(what string, want, have any) check { return check{what, fmt.Sprint(want), fmt.Sprint(have)} }
