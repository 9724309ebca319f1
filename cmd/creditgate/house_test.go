package main_test

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// This file holds the house's rules that no linter knows: what stands at the top, how packages are named, and that
// each says where its things are. Who may import whom is in .golangci.yml.

// linesMax is the size at which a file holds more than one thing.
const linesMax = 450

// house is the project's tree.
func house(t *testing.T) fs.FS {
	t.Helper()
	return os.DirFS("../..")
}

func TestTopLevelIsTheOwners(t *testing.T) {
	t.Parallel()
	owners := []string{"cmd", "gateway", "meter", "lua", "persist", "bench", "go.mod", "go.sum", "Makefile", "README.md"}
	built := []string{"creditgate"}
	entries, err := fs.ReadDir(house(t), ".")
	require.NoError(t, err)
	for _, e := range entries {
		name := e.Name()
		known := slices.Contains(owners, name) || slices.Contains(built, name) || strings.HasPrefix(name, ".") ||
			strings.HasSuffix(name, ".test") || strings.HasSuffix(name, ".pprof")
		require.True(t, known, "%s is at the top level: its place is in one of %v", name, owners)
	}
}

// folders calls fn for each folder that holds Go files, with its Go files that are not tests.
// Dotted folders and testdata are none of the house's rooms.
func folders(t *testing.T, fn func(dir string, files []string)) {
	t.Helper()
	tree := house(t)
	seen := 0
	require.NoError(t, fs.WalkDir(tree, ".", func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if base := path.Base(dir); base == "testdata" || base != "." && strings.HasPrefix(base, ".") {
			return fs.SkipDir
		}
		sources, err := fs.Glob(tree, path.Join(dir, "*.go"))
		if err != nil {
			return err
		}
		files := slices.DeleteFunc(sources, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
		if len(files) > 0 {
			seen++
			fn(dir, files)
		}
		return nil
	}))
	require.Positive(t, seen, "found no packages: is the test run from its own folder?")
}

func TestPackagesAreNamedForWhatTheyOwn(t *testing.T) {
	t.Parallel()
	drawers := []string{"util", "utils", "common", "helpers", "models", "types", "mocks", "misc", "shared", "base", "lib", "pkg"}
	folders(t, func(dir string, _ []string) {
		require.NotContains(t, drawers, path.Base(dir), "%s is a drawer: name the package for what it owns", dir)
	})
}

// A newcomer finds a file by the map in the package's doc.go; one or two files need none.
func TestEveryPackageHasItsMap(t *testing.T) {
	t.Parallel()
	tree := house(t)
	var unmapped []string
	folders(t, func(dir string, files []string) {
		if len(files) <= 2 {
			return
		}
		doc, err := fs.ReadFile(tree, path.Join(dir, "doc.go"))
		require.NoError(t, err, "%s has %d files: its doc.go says what the package owns and refuses, and maps them", dir, len(files))
		words := strings.FieldsFunc(string(doc), func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(",;:()", r) })
		for _, file := range files {
			name := path.Base(file)
			mapped := func(word string) bool { // a word may stand for several: control*.go
				ok, err := path.Match(word, name)
				return ok && err == nil
			}
			if name != "doc.go" && !slices.ContainsFunc(words, mapped) {
				unmapped = append(unmapped, file)
			}
		}
	})
	require.Empty(t, unmapped, "these files have no line in the map of their package's doc.go")
}

func TestFilesHoldOneThing(t *testing.T) {
	t.Parallel()
	tree := house(t)
	folders(t, func(_ string, files []string) {
		for _, file := range files {
			b, err := fs.ReadFile(tree, file)
			require.NoError(t, err)
			require.LessOrEqual(t, bytes.Count(b, []byte("\n")), linesMax, "lines of %s: what are the things it holds?", file)
		}
	})
}
