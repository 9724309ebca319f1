package policy

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The documentation names every rule of the seeds once, in order, with a line that stands in its example.
func TestEverySeedRuleHasItsLine(t *testing.T) {
	t.Parallel()
	var want []string
	for letter, rules := range map[string]int{"A": 8, "B": 35, "C": 14} {
		for n := range rules {
			want = append(want, fmt.Sprintf("%s%d", letter, n+1))
		}
	}
	source, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	row := regexp.MustCompile(`(?m)^//\t([ABC]\d+) +(.+?)  +([^ ].*)$`)
	var got []string
	for _, m := range row.FindAllStringSubmatch(string(source), -1) {
		seed := map[byte]string{'A': "visual-foundry", 'B': "ai-background-studio", 'C': "3d-studio"}[m[1][0]]
		policy, err := Example(seed)
		require.NoError(t, err)
		require.Contains(t, strings.Join(strings.Fields(string(policy)), " "), strings.Join(strings.Fields(m[2]), " "), m[1])
		got = append(got, m[1])
	}
	require.ElementsMatch(t, want, got)
}
