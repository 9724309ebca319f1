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
	TBD          bool // a value is left open
}

// String is "file:line:column: path: detail".
func (p Problem) String() string {
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

// FileError is why a policy file is refused: all its mistakes in the order of its lines.
type FileError struct{ Problems []Problem }

// Error has a line for each problem.
func (e *FileError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Is reports a value left open as ErrTBD.
func (e *FileError) Is(target error) bool {
	return target == ErrTBD && slices.ContainsFunc(e.Problems, func(p Problem) bool { return p.TBD })
}

// report collects the problems of one file.
type report struct {
	file     string
	list     []Problem
	more     int // beyond problemsMax
	warnings []Problem
}

// warn keeps a warning, for which no file is refused.
func (r *report) warn(p Problem) {
	if len(r.warnings) < problemsMax {
		p.File, p.Detail = r.file, "warning: "+p.Detail
		r.warnings = append(r.warnings, p)
	}
}

func (r *report) add(p Problem) {
	p.File = r.file
	if len(r.list) == problemsMax {
		r.more++
		return
	}
	r.list = append(r.list, p)
}

// sortProblems puts problems in the order of their lines.
func sortProblems(list []Problem) {
	slices.SortStableFunc(list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// err is nil if nothing was reported.
func (r *report) err() error {
	if len(r.list) == 0 {
		return nil
	}
	sortProblems(r.list)
	if r.more > 0 {
		r.list = append(r.list, Problem{File: r.file, Detail: fmt.Sprintf("and %d more; mend these first", r.more)})
	}
	return &FileError{Problems: r.list}
}
