package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the settings table of the README anew")

const readme = "../../README.md"

// settingsTable is the README's table, from the declarations.
func settingsTable() string {
	var b strings.Builder
	b.WriteString("| setting | default | |\n|---|---|---|\n")
	for _, s := range defaultConfig().settings() {
		shown := "–"
		if s.value.String() != "" {
			shown = "`" + s.value.String() + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.name, shown, s.help)
	}
	return b.String()
}

func TestReadmeHasTheSettings(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile(readme)
	require.NoError(t, err)
	table := regexp.MustCompile(`(?m)^\| setting \|.*\n(\|.*\n)+`)
	require.True(t, table.Match(src), "the README has no table of settings")
	if *update {
		src = table.ReplaceAllLiteral(src, []byte(settingsTable()))
		require.NoError(t, os.WriteFile(readme, src, 0o644))
	}
	require.Equal(t, settingsTable(), string(table.Find(src)), "go test ./cmd/creditgate -run TestReadme -update writes it")
}

func TestReadmeLinksLead(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile(readme)
	require.NoError(t, err)
	links := regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(src), -1)
	require.NotEmpty(t, links)
	for _, l := range links {
		_, err := os.Stat(filepath.Join("../..", l[1]))
		require.NoError(t, err, l[0])
	}
}

// A row of "when something dies" is as true as the test that it names.
func TestReadmeNamesRealTests(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile(readme)
	require.NoError(t, err)
	named := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(string(src), -1)
	require.NotEmpty(t, named)
	var tests strings.Builder
	require.NoError(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		tests.Write(b)
		return err
	}))
	for _, n := range named {
		require.Contains(t, tests.String(), "func "+n[1]+"(t *testing.T)", "the README names a test that is not there")
	}
}
