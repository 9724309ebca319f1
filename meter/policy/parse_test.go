package policy

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Every broken file is refused with the messages in its .want: place, what is wrong, and the fix.
func TestBroken(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/broken/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 140)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = Parse(filepath.Base(file), src)
			var problems *FileError
			require.ErrorAs(t, err, &problems)
			want := strings.TrimSuffix(file, ".yaml") + ".want"
			if *update {
				require.NoError(t, os.WriteFile(want, []byte(err.Error()+"\n"), 0o600))
			}
			golden, readErr := os.ReadFile(want)
			require.NoError(t, readErr)
			require.Equal(t, string(golden), err.Error()+"\n")
			require.Equal(t, strings.Contains(string(src), "TBD"), errors.Is(err, ErrTBD))
		})
	}
}
