package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrTBD says that a policy leaves a value open: the word TBD is never read as a zero or as a name.
var ErrTBD = errors.New("TBD")

// problemsMax bounds what one check reports: whoever has fifty mistakes mends those first.
const problemsMax = 50

// Problem is one mistake in a policy file: where it stands, what it is, and how to mend it.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 if the file as a whole is meant
	Path         string // operations.apply.credits; "" for the whole file
	Detail       string
	Err          error // ErrTBD, or nil
}

// Error is "file:line:column: path: detail".
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Detail)
	return b.String()
}

// Unwrap is ErrTBD where a value was left open.
func (p Problem) Unwrap() error { return p.Err }

// Problems are all mistakes of a file in the order of its lines.
type Problems []Problem

// Error has a line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is find ErrTBD.
func (ps Problems) Unwrap() []error {
	out := make([]error, len(ps))
	for i, p := range ps {
		out[i] = p
	}
	return out
}

// report collects the problems of one file.
type report struct {
	file string
	list Problems
	more int // beyond problemsMax
}

func (r *report) add(p Problem) {
	p.File = r.file
	if len(r.list) == problemsMax {
		r.more++
		return
	}
	r.list = append(r.list, p)
}

// err is nil if nothing was reported.
func (r *report) err() error {
	if len(r.list) == 0 {
		return nil
	}
	slices.SortStableFunc(r.list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if r.more > 0 {
		r.list = append(r.list, Problem{File: r.file, Detail: fmt.Sprintf("and %d more; mend these first", r.more)})
	}
	return r.list
}
