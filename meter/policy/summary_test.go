package policy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// example parses an embedded policy.
func example(tb testing.TB, name string) *Policy {
	tb.Helper()
	src, err := Example(name)
	require.NoError(tb, err)
	p, err := Parse(name+".yaml", src)
	require.NoError(tb, err)
	return p
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestSummaryOfTheExamples(t *testing.T) {
	t.Parallel()
	for _, name := range Examples() {
		golden(t, filepath.Join("testdata/summary", name+".txt"), example(t, name).Summary())
	}
	p, err := Parse("every.yaml", []byte(every))
	require.NoError(t, err)
	golden(t, "testdata/summary/every.txt", p.Summary())
}

func TestDiff(t *testing.T) {
	t.Parallel()
	for old, now := range map[string]string{"ai-background-studio": "studio-next", "visual-foundry": "foundry-next"} {
		next, err := Load("testdata/diff/" + now + ".yaml")
		require.NoError(t, err)
		golden(t, "testdata/diff/"+now+".txt", Changes(example(t, old), next))
		golden(t, "testdata/diff/"+now+"-back.txt", Changes(next, example(t, old)))
		require.Empty(t, Diff(next, next))
		require.Contains(t, Changes(next, next), "No rule changes.")
	}
	golden(t, "testdata/diff/shop-to-studio.txt", Changes(example(t, "visual-foundry"), example(t, "3d-studio")))
}
