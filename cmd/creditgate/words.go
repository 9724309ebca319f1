package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// firstClause is a help text up to its first stop, for use within a sentence.
func firstClause(help string) string {
	if i := strings.IndexAny(help, ":;,."); i > 0 {
		return help[:i]
	}
	return help
}

// didYouMean is "; did you mean x?" with the nearest of the known words. A prefix that all of them have does not make
// two words alike.
func didYouMean(prefix, word string, known []string) string {
	distance := func(k string) int {
		return edits(strings.TrimPrefix(word, prefix), strings.TrimPrefix(k, prefix))
	}
	slices.Sort(known)
	nearest := slices.MinFunc(known, func(a, b string) int { return cmp.Compare(distance(a), distance(b)) })
	if distance(nearest) <= max(2, (len(word)-len(prefix))/3) {
		return "; did you mean " + nearest + "?"
	}
	return "; see creditgate serve --help for all"
}

// edits is the Levenshtein distance: how many letters to add, drop or change. Names are short, so the table is small.
func edits(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, change)
		}
	}
	return row[len(b)]
}

// indent lets the lines after the first stand under it.
func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n  ") }
